"""One blob's way upstream, at a strict ECR."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.services.openings import Openings
from proxy.services.outgoing import UpstreamUpload
from proxy.services.registries import Target
from proxy.services.straight import Straight
from proxy.services.transfers import Transfer
from proxy.services.uplink import MIB, Uplink
from proxy.standin import Fault
from proxy.standin.faults import Armed
from proxy.upstream import Upload
from tests.clocks import Clock
from tests.services.conftest import World

BLOB = os.urandom(21 * MIB)
DIGEST = Digest.of(BLOB)


class Way:
    """A transfer over an uplink of its own, of content that is all here."""

    def __init__(self, world: World, openings: type[Openings] = Openings) -> None:
        self.blob = BLOB
        self.told: list[Event] = []
        self.clock = Clock()
        self.seconds = 0.0  # that pass with each MiB
        self.uplink = Uplink(clock=self.clock)
        self.owed: list[int] = []  # at each of them
        events = Events()
        events.subscribe(self._hear)
        upload = UpstreamUpload(world.target, openings(events), None, self)
        self.transfer = Transfer(upload, self.uplink, events, first_pause=0.001)
        self._world = world

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self.owed.append(self.uplink.owed)

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, MIB):
            self.clock.now += self.seconds
            yield self.blob[at : min(at + MIB, end)]

    async def measure(self, size: int, seconds: float) -> None:
        """Something else is sent meanwhile."""
        async with self.uplink.turn(self.uplink.join(), size):
            self.clock.now += seconds

    def arrived(self) -> bool:
        path = self._world.standin.state.files.path_of(Digest.of(self.blob))
        return path.exists() and path.read_bytes() == self.blob

    def parts(self) -> list[int]:
        """The sizes of what was sent in PATCHes."""
        return [r.request_bytes for r in self._world.standin.requests if r.method == "PATCH"]


@pytest.fixture
async def way(world: World) -> AsyncIterator[Way]:
    way = Way(world)
    yield way
    await way.transfer.cancel()


async def test_parts_are_sent_while_the_rest_is_received(way: Way) -> None:
    for size in range(MIB, len(BLOB) + 1, MIB):
        await way.transfer.admit(MIB)
        way.transfer.grow(size)
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()
    assert way.parts()
    assert all(part >= 5 * MIB for part in way.parts())
    assert way.uplink.owed == 0


class LargeParts(Openings):
    """As of a registry that takes no small parts, and says so with each upload."""

    async def open(self, target: Target, *, patient: bool) -> Upload:
        return replace(await super().open(target, patient=patient), min_part=18 * MIB)


async def test_parts_are_as_large_as_upstream_says_though_less_may_be_owed(world: World) -> None:
    way = Way(world, LargeParts)
    assert way.uplink.limit == 16 * MIB
    for size in range(MIB, len(BLOB) + 1, MIB):
        await way.transfer.admit(MIB)
        way.transfer.grow(size)
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()
    assert way.parts() == [18 * MIB]


async def test_what_goes_straight_through_goes_in_parts_as_large_as_upstream_says(
    world: World,
) -> None:
    straight = Straight(UpstreamUpload(world.target, LargeParts(Events())))
    for start in range(0, len(BLOB), MIB):
        await straight.append(BLOB[start : start + MIB])
    await straight.commit(DIGEST)
    assert [r.request_bytes for r in world.standin.requests if r.method == "PATCH"] == [18 * MIB]


async def test_a_line_that_becomes_slower_keeps_nobody_waiting_for_a_part_that_was_larger(
    way: Way,
) -> None:
    """What is here is less than a part of a fast line, more than one of a slow one; more than may
    be owed; and nothing else is being sent."""
    await way.measure(200 * MIB, seconds=1)
    assert way.uplink.part_size(0) > 20 * MIB
    await way.transfer.admit(20 * MIB)
    way.transfer.grow(20 * MIB)
    await way.measure(MIB, seconds=10_000)
    assert way.uplink.limit == 5 * MIB
    await way.transfer.admit(MIB)
    way.transfer.grow(21 * MIB)
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="POST", path="uploads", status=500, times=9),
        Fault(method="PATCH", reset=True),
        Fault(method="PATCH", lose_reply=True),
        Fault(method="PATCH", request_cut=3 * MIB),
        Fault(method="PUT", path="uploads", status=503, times=3),
        Fault(method="PUT", path="uploads", lose_reply=True),
        Fault(
            method="PUT",
            path="uploads",
            status=403,
            times=2,
            body="""{"errors":[{"code":
            "DENIED","message":"Your authorization token has expired."}]}""",
        ),
        Fault(
            method="PUT",
            path="uploads",
            status=404,
            body="""{"errors":[{"code":
            "BLOB_UPLOAD_UNKNOWN","message":"unknown"}]}""",
        ),
        Fault(
            method="PUT",
            path="uploads",
            status=400,
            body="""{"errors":[{"code":
            "BLOB_UPLOAD_INVALID","message":"None of the provided layer digests match"}]}""",
        ),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'broken'}-{fault.times}",
)
async def test_what_breaks_off_is_begun_anew_until_it_is_there(
    way: Way, world: World, fault: Fault
) -> None:
    world.standin.faults.add(fault)
    way.transfer.owe(len(BLOB))
    way.transfer.grow(20 * MIB)
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()
    assert [event.kind for event in way.told].count(Kind.TROUBLE) <= 2
    assert set(way.owed) <= {len(BLOB)}  # all of it, again
    assert way.uplink.owed == 0
    assert way.uplink.trouble is None


async def test_a_refusal_for_good_ends_it_in_upstreams_words(way: Way, world: World) -> None:
    words = '{"errors":[{"code":"DENIED","message":"not for you"}]}'
    world.standin.faults.add(Fault(method="PUT", path="uploads", status=403, body=words))
    ended: list[bool] = []
    way.transfer.when_over(lambda: ended.append(way.transfer.is_done))
    way.transfer.owe(len(BLOB))
    way.transfer.finish(DIGEST, len(BLOB))
    with pytest.raises(Exception, match="not for you"):
        await way.transfer.settled()
    assert ended == [False]
    with pytest.raises(Exception, match="not for you"):
        await way.transfer.admit(1)
    assert way.uplink.owed == 0


async def test_bytes_that_are_refused_again_and_again_are_refused_for_good(
    way: Way, world: World
) -> None:
    """Though all parts but the last are taken each time."""
    words = '{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"no such bytes"}]}'
    refusal = Fault(method="PUT", path="uploads", status=400, body=words, times=None)
    armed = world.standin.faults.add(refusal)
    way.transfer.owe(len(BLOB))
    way.transfer.grow(20 * MIB)
    way.transfer.finish(DIGEST, len(BLOB))
    with pytest.raises(Exception, match="no such bytes"):
        await way.transfer.settled()
    assert armed.hits == 2


async def test_a_blob_over_a_fast_line_goes_in_large_parts_that_ecr_takes(way: Way) -> None:
    await way.measure(100 * MIB, seconds=1)
    assert way.uplink.part_size(0) == 30 * MIB
    way.blob = BLOB * 4 + BLOB[:5]
    digest = Digest.of(way.blob)
    way.transfer.owe(len(way.blob))
    way.transfer.grow(60 * MIB)
    way.transfer.finish(digest, len(way.blob))
    await way.transfer.settled()
    assert way.arrived()
    assert max(way.parts()) == 30 * MIB


async def test_trouble_that_does_not_pass_ends_the_wait_and_not_the_transfer(
    way: Way, world: World
) -> None:
    fault = world.standin.faults.add(Fault(method="POST", path="uploads", status=500, times=None))
    way.transfer.owe(len(BLOB))
    way.transfer.finish(DIGEST, len(BLOB))
    waiting = asyncio.create_task(way.transfer.settled())
    while way.uplink.trouble is None:
        await asyncio.wait([waiting], timeout=0.01)
    way.clock.now += 21
    way.uplink.changed()
    with pytest.raises(Exception, match="500"):
        await waiting
    world.standin.faults.remove(fault)
    await way.transfer.over()
    assert way.arrived()


async def fails_at_its_end(way: Way, world: World) -> Armed:
    """A blob whose parts are all taken before it fails at its end; over a slow line."""
    way.seconds = 1.0
    way.transfer.owe(len(BLOB))
    way.transfer.grow(20 * MIB)
    way.transfer.finish(DIGEST, len(BLOB))
    return world.standin.faults.add(Fault(method="PUT", path="uploads", status=500, times=None))


async def test_a_blob_that_fails_at_its_end_each_time_is_not_waited_for_without_end(
    way: Way, world: World
) -> None:
    """Though all parts but the last are taken each time."""
    armed = await fails_at_its_end(way, world)
    with pytest.raises(Exception, match="500"):
        await way.transfer.settled()
    assert len(way.parts()) >= 8
    world.standin.faults.remove(armed)
    await way.transfer.over()
    assert way.arrived()


async def test_a_blob_that_alone_fails_takes_up_nothing_of_what_all_may_owe(
    way: Way, world: World
) -> None:
    """Or the pushes of a day would stand behind one that is never taken."""
    armed = await fails_at_its_end(way, world)
    other = asyncio.create_task(way.uplink.until(lambda: way.uplink.owed == 0, lambda: None))
    await other
    assert armed.hits >= 2
    world.standin.faults.remove(armed)
    await way.transfer.over()
    assert way.arrived()
    assert way.uplink.owed == 0


async def test_what_fails_with_all_else_is_owed_as_long_as_that_lasts(
    way: Way, world: World
) -> None:
    armed = world.standin.faults.add(Fault(method="POST", path="uploads", status=500, times=None))
    way.transfer.owe(len(BLOB))
    way.transfer.finish(DIGEST, len(BLOB))
    await way.uplink.until(lambda: armed.hits >= 3, lambda: None)
    way.clock.now += 100
    await way.uplink.until(lambda: armed.hits >= 6, lambda: None)
    assert way.uplink.owed == len(BLOB)
    world.standin.faults.remove(armed)


async def test_what_could_not_be_halted_goes_on_by_itself(way: Way, world: World) -> None:
    fault = world.standin.faults.add(Fault(method="POST", path="uploads", status=500, times=None))
    way.transfer.owe(len(BLOB))
    way.transfer.grow(20 * MIB)
    await way.uplink.until(lambda: way.uplink.trouble is not None, lambda: None)
    halting = asyncio.create_task(way.transfer.halt())
    await asyncio.wait([halting], timeout=0)
    way.clock.now += 21
    way.uplink.changed()
    with pytest.raises(Exception, match="500"):
        await halting
    world.standin.faults.remove(fault)
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()


async def test_what_was_halted_for_nobody_goes_on_by_itself(way: Way, world: World) -> None:
    """Its client went away in the meantime."""
    held = world.standin.faults.add(Fault(method="PATCH", hold=True))
    way.transfer.owe(len(BLOB))
    way.transfer.grow(20 * MIB)
    await held.reached.wait()
    halting = asyncio.create_task(way.transfer.halt())
    await asyncio.wait([halting], timeout=0)
    halting.cancel()
    await asyncio.wait([halting])
    held.release()
    way.transfer.finish(DIGEST, len(BLOB))
    await way.transfer.settled()
    assert way.arrived()


async def test_who_halts_it_goes_on_where_it_stood(way: Way) -> None:
    way.transfer.owe(20 * MIB)
    way.transfer.grow(20 * MIB)
    upload = await way.transfer.halt()
    assert way.uplink.owed == 0
    await upload.commit(DIGEST, len(BLOB))
    assert way.arrived()
