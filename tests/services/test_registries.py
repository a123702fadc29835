"""The other names of a repository, by which rules may deny it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.events import Events
from proxy.oci import RepositoryName
from proxy.services.registries import aliases_of
from proxy.upstream import Registry, RegistryConfig, open_registry

LAN = "lan-cache:5000"


@pytest.fixture
async def plain() -> AsyncIterator[Registry]:
    """Given by its URL, so it may be another proxy."""
    registry = await open_registry(
        RegistryConfig(name=LAN, url=f"http://{LAN}"), proxies={}, events=Events()
    )
    yield registry
    await registry.close()


@pytest.mark.parametrize(
    ("repository", "aliases"),
    [
        ("app", ()),
        ("team/app", ()),
        ("quay.io/app", (("quay.io", "app"), (LAN, "app"))),
        ("localhost/app", (("localhost", "app"), (LAN, "app"))),
        (
            "lan.example/quay.io/app",
            (
                ("lan.example", "quay.io/app"),
                (LAN, "quay.io/app"),
                ("quay.io", "app"),
                (LAN, "app"),
            ),
        ),
        ("quay.io/", ()),
        # Whoever sends what is no name cannot have thousands of names judged.
        ("a.b/" * 20_000 + "app", ()),
    ],
)
async def test_a_proxy_may_know_a_repository_without_the_host_before_it(
    plain: Registry, repository: str, aliases: tuple[tuple[str, str], ...]
) -> None:
    assert aliases_of(plain, repository) == aliases


async def test_the_longest_name_is_looked_at(plain: Registry) -> None:
    name = "a.b/" * (RepositoryName.MAX // 4 - 1) + "long"
    assert len(name) == RepositoryName.MAX
    assert (LAN, "long") in aliases_of(plain, name)
