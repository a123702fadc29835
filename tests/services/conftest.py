"""A strict ECR that is asked of what it holds, a store, and time that passes when told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from proxy.cache import BlobStore, RecordStore
from proxy.events import Event, Events
from proxy.oci import Digest, RepositoryName
from proxy.services.existence import Existence
from proxy.services.expected import Expected
from proxy.services.leases import Leases
from proxy.services.proofs import Proofs
from proxy.services.registries import Target
from proxy.standin import StandIn, StandInSettings
from proxy.upstream import Tuning, open_registry
from tests.clocks import Clock
from tests.standins import config_of


@dataclass(slots=True)
class World:
    """`existence` and all that it works with."""

    standin: StandIn
    target: Target
    store: BlobStore
    clock: Clock
    proofs: Proofs
    leases: Leases
    existence: Existence
    told: list[Event] = field(default_factory=list)

    @property
    def other(self) -> Target:
        return replace(self.target, repository=RepositoryName.parse("other"))

    def held(self, *numbers: int) -> list[Digest]:
        """Blobs that upstream holds, one for each number."""
        return [self.standin.state.put_blob("app", b"blob %d" % number) for number in numbers]

    def heads(self) -> int:
        return sum(r.method == "HEAD" for r in self.standin.requests)

    def batches(self) -> int:
        header = "X-Amz-Target"
        return sum(
            (r.header(header) or "").endswith("BatchCheckLayerAvailability")
            for r in self.standin.requests
        )

    def asked(self) -> tuple[int, int]:
        """How often upstream was asked: for one blob, and for many at once."""
        return self.heads(), self.batches()


# So small that half of it is soon full.
BUDGET = 4 * 1024 * 1024


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock, events, told = Clock(), Events(), list[Event]()
    events.subscribe(told.append)
    async with StandIn(
        StandInSettings(repositories=("app", "other"), rate_limits=False)
    ) as standin:
        config = config_of(standin)
        tuning = Tuning(patience=0.2, first_pause=0.01, start_wait=30.0)
        registry = await open_registry(config, proxies={}, events=events, tuning=tuning)
        target = Target(registry, RepositoryName.parse("app"))
        store = await BlobStore.open(tmp_path, budget=BUDGET, events=events)
        await store.settled()
        proofs = Proofs(clock=clock)
        leases = Leases(store, clock=clock)
        expected = Expected(await RecordStore.open(store))
        existence = Existence(store, proofs, leases, expected, events, clock=clock)
        yield World(standin, target, store, clock, proofs, leases, existence, told)
        await existence.close()
        await expected.close()
        leases.close()
        await store.close()
        await registry.close()
