"""A strict ECR and a proxy in front of it, both on sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.standin import StandIn, StandInSettings
from tests.clocks import Clock
from tests.running import RunningProxy, running, settings_for

REPOSITORIES = ("app", "other", "team/app")


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=REPOSITORIES, rate_limits=False)) as standin:
        yield standin


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with running(settings_for(registry_of(standin), cache_dir=tmp_path / "cache")) as proxy:
        yield proxy
