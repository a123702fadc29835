"""A strict ECR that fails on demand, and a proxy in front of it, both on sockets."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.cache import Patience
from proxy.demo import registry_of
from proxy.standin import StandIn, StandInSettings
from proxy.upstream import Tuning
from tests.running import RunningProxy, running, settings_for

# Pauses of no length to speak of, and as many attempts at one request as ever.
PATIENCE = Patience(first_pause=0.01)
QUICK = Timing(tuning=Tuning(first_pause=0.01), patience=PATIENCE)
# A stall is one after a moment, which is longer than the patience with a request, as it is by
# default. A machine with much to do may be taken for stalled too: for tests that count no requests.
HASTY = Timing(
    tuning=Tuning(first_pause=0.01, patience=0.4, stall=0.5, idle=3600.0, verdict=0.5),
    patience=PATIENCE,
)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=("app",), rate_limits=False)) as standin:
        yield standin


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(settings, timing=QUICK) as proxy:
        yield proxy


@pytest.fixture
async def hasty(standin: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(settings, timing=HASTY) as proxy:
        yield proxy


@pytest.fixture
def chance() -> random.Random:
    """From a seed that is printed with a failure; FAULTS_SEED=… draws the same again."""
    number = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(2**32))
    print(f"FAULTS_SEED={number}")
    return random.Random(number)
