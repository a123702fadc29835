"""A strict ECR; what is in front of it is for each test to say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.standin import StandIn, StandInSettings


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=("app",), rate_limits=False)) as standin:
        yield standin
