"""Blobs that are owed: what is kept of them, and for how long."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import AsyncIterator

import pytest

from proxy.cache import RecordStore
from proxy.errors import RegistryError
from proxy.events import Events
from proxy.oci import Digest
from proxy.services.debts import Debts
from proxy.services.openings import Openings
from proxy.services.registries import Registries, Ways
from proxy.services.uplink import Uplinks
from proxy.standin import Fault
from tests.filled import put
from tests.services.conftest import World

BLOB = b"some blob"
DAY = 24 * 3600


@pytest.fixture
async def debts(world: World) -> AsyncIterator[Debts]:
    events = Events()
    debts = Debts(
        world.store,
        await RecordStore.open(world.store),
        Uplinks([world.target.registry.name]),
        Openings(events),
        world.existence,
        world.leases,
        events,
        first_pause=0.001,
    )
    yield debts
    await debts.close()


async def test_a_refusal_that_is_told_often_holds_nothing_of_those_who_heard_it(
    world: World, debts: Debts
) -> None:
    """What it passed through is held along with it, manifests too."""
    digest = await put(world.store, BLOB)
    words = '{"errors":[{"code":"DENIED","message":"not for you"}]}'
    world.standin.faults.add(Fault(method="PUT", path="uploads", status=403, body=words))
    debts.owe_stored(world.target, digest)
    with pytest.raises(RegistryError):
        await debts.pay(world.target, [digest])
    depths = []
    for _ in range(2):
        with pytest.raises(RegistryError, match="not for you") as told:
            await debts.pay(world.target, [digest])
        depths.append(len(traceback.extract_tb(told.value.__traceback__)))
    assert depths[0] == depths[1]


@pytest.mark.parametrize(("days", "left"), [(0.9, 1), (1.1, 0)])
async def test_what_is_owed_to_a_registry_that_is_gone_is_written_down_for_a_day(
    world: World, debts: Debts, days: float, left: int
) -> None:
    records = await RecordStore.open(world.store)
    content = json.dumps({"size": 9, "since": time.time() - days * DAY}).encode()
    await records.put("debt", "gone.example", "app", Digest.of(BLOB), content)
    registry = world.target.registry
    await debts.restore(Registries([registry], {registry.name: Ways()}))
    assert len(await records.all("debt")) == left
