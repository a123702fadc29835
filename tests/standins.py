"""The stand-in as a registry that upstream is configured with."""

from __future__ import annotations

from dataclasses import replace

from proxy.standin import StandIn
from proxy.upstream import RegistryConfig


def config_of(standin: StandIn, **changes: object) -> RegistryConfig:
    """As the ECR registry that it plays, with credentials of its own."""
    config = RegistryConfig(
        name=standin.host,
        url=standin.url,
        ecr=True,
        api_url=standin.url,
        access_key_id=standin.access_key_id,
        secret_access_key=standin.secret_access_key,
    )
    return replace(config, **changes)  # type: ignore[arg-type]
