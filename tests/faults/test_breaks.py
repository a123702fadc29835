"""An upstream that breaks off, stalls or refuses during a blob: clients notice nothing."""

from __future__ import annotations

import asyncio

import pytest

from proxy.events import Kind
from proxy.standin import Fault, StandIn
from tests.faults.content import (
    KIB,
    MIB,
    TAIL,
    Taken,
    downloads,
    files,
    noise,
    path_of,
    ranges,
    redirects,
    seed,
    take,
)
from tests.running import RunningProxy

BLOB = noise(3 * MIB + 17, seed=1)
RIGHT = Taken(200, BLOB, whole=True)
MIDDLE = MIB + 5
# Sizes at which something changes in the proxy or below it (a page of S3, a chunk, a batch, the
# part that is withheld), and those beside them.
_BOUNDARIES = (16 * KIB, 64 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB, len(BLOB) - TAIL)
EDGES = [0, 1, *(at + by for at in _BOUNDARIES for by in (-1, 0, 1)), len(BLOB) - 1]


def from_byte(at: int) -> str | None:
    return f"bytes={at}-" if at else None


async def test_a_body_that_is_cut_anywhere_is_resumed_at_that_byte(
    standin: StandIn, proxy: RunningProxy
) -> None:
    blobs = {cut: noise(3 * MIB, seed=cut) + BLOB[:17] for cut in EDGES}
    digests = dict(zip(EDGES, seed(standin, *blobs.values()), strict=True))
    for cut, digest in digests.items():
        standin.faults.add(Fault(server="s3", path=digest.hex, cut_after=cut))

    async def outcome(cut: int) -> tuple[bool, list[str | None], int]:
        got = await take(proxy, digests[cut])
        asked = ranges(standin, digests[cut]), redirects(standin, digests[cut])
        return got == Taken(200, blobs[cut], whole=True), *asked

    outcomes = dict(zip(EDGES, await asyncio.gather(*map(outcome, EDGES)), strict=True))
    # Two requests, and each has asked for the URL anew.
    assert outcomes == {cut: (True, [None, from_byte(cut)], 2) for cut in EDGES}


@pytest.mark.parametrize("cut", [1, MIB, len(BLOB) - 1])
async def test_a_body_that_is_cut_is_passed_over_where_ranges_are_ignored(
    standin: StandIn, proxy: RunningProxy, cut: int
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", cut_after=cut))
    standin.faults.add(Fault(server="s3", ignore_range=True, skip=1))
    assert await take(proxy, digest) == RIGHT
    assert [(r.header("Range"), r.status) for r in downloads(standin)] == [
        (None, 200),
        (from_byte(cut), 200),
    ]


@pytest.mark.parametrize("cut", [0, 1, MIB])
async def test_a_body_without_a_length_that_is_cut_is_resumed(
    standin: StandIn, proxy: RunningProxy, cut: int
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", no_length=True, cut_after=cut))
    assert await take(proxy, digest) == RIGHT


async def test_a_body_that_is_cut_again_and_again_is_resumed_each_time(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    step = 256 * KIB + 1
    standin.faults.add(Fault(server="s3", cut_after=step, times=None))
    assert await take(proxy, digest) == RIGHT
    assert ranges(standin) == [from_byte(at) for at in range(0, len(BLOB), step)]


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(server="s3", status=500, times=2),
        Fault(server="s3", status=503, times=2),
        # More than one request is repeated for: the source itself is asked again.
        Fault(server="s3", status=503, times=6),
        Fault(server="s3", reset=True, times=6),
        Fault(server="registry", method="GET", path="/blobs/", status=500, times=6),
        Fault(server="registry", method="GET", path="/blobs/", status=429, times=2),
        Fault(server="registry", method="GET", path="/blobs/", reset=True, times=2),
    ],
    ids=lambda fault: f"{fault.server}-{fault.status or 'reset'}-{fault.times}",
)
async def test_trouble_in_the_middle_of_a_body_is_waited_out(
    standin: StandIn, proxy: RunningProxy, trouble: Fault
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(proxy, digest))
    await gate.reached.wait()
    met = standin.faults.add(trouble)
    gate.release()
    assert await taking == RIGHT
    assert met.is_spent
    assert ranges(standin)[-1] == from_byte(MIDDLE)


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(server="s3", status=503, times=3),
        Fault(server="s3", reset=True),
        Fault(server="registry", method="GET", path="/blobs/", status=500),
    ],
    ids=lambda fault: f"{fault.server}-{fault.status or 'reset'}",
)
async def test_trouble_before_a_body_is_waited_out(
    standin: StandIn, proxy: RunningProxy, trouble: Fault
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(trouble)
    assert await take(proxy, digest) == RIGHT


@pytest.mark.parametrize("at", [0, MIDDLE, len(BLOB) - 1])
async def test_a_body_that_stalls_is_resumed(
    standin: StandIn, hasty: RunningProxy, at: int
) -> None:
    [digest] = seed(standin, BLOB)
    stalled = standin.faults.add(Fault(server="s3", hold_at=at))
    assert await take(hasty, digest) == RIGHT
    assert stalled.reached.is_set()
    assert from_byte(at) in ranges(standin)[1:]


@pytest.mark.parametrize("server", ["s3", "registry"])
async def test_a_request_for_a_blob_without_an_answer_is_made_again(
    standin: StandIn, hasty: RunningProxy, server: str
) -> None:
    [digest] = seed(standin, BLOB)
    silent = standin.faults.add(Fault(server=server, method="GET", hold=True))
    assert await take(hasty, digest) == RIGHT
    assert silent.reached.is_set()


@pytest.mark.parametrize("server", ["s3", "registry"])
async def test_a_stall_while_a_body_is_resumed_is_outlasted(
    standin: StandIn, hasty: RunningProxy, server: str
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(hasty, digest))
    await gate.reached.wait()
    silent = standin.faults.add(Fault(server=server, method="GET", hold=True, times=3))
    gate.release()
    assert await taking == RIGHT
    assert silent.is_spent


async def test_an_outage_while_a_body_is_resumed_is_waited_out(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(proxy, digest))
    await gate.reached.wait()
    outage = standin.faults.add(Fault(server="registry", status=503, times=None))
    gate.release()
    await proxy.until(Kind.TROUBLE)
    standin.faults.remove(outage)
    assert await taking == RIGHT
    assert Kind.RECOVERED in proxy.kinds()


async def test_a_url_that_expires_during_a_body_is_asked_for_again(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(proxy, digest))
    await gate.reached.wait()
    standin.state.clock.advance(standin.settings.url_lifetime + 1)
    gate.release()
    assert await taking == RIGHT
    first, second = downloads(standin)
    assert (second.status, second.header("Range")) == (206, from_byte(MIDDLE))
    assert first.path != second.path


@pytest.mark.parametrize("status", [403, 400])
async def test_a_url_that_expires_on_the_way_to_it_is_asked_for_again(
    standin: StandIn, proxy: RunningProxy, status: int
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", cut_after=MIDDLE))
    said = "<Error><Code>ExpiredToken</Code><Message>Request has expired</Message></Error>"
    standin.faults.add(Fault(server="s3", skip=1, status=status, body=said))
    assert await take(proxy, digest) == RIGHT
    assert ranges(standin) == [None, from_byte(MIDDLE), from_byte(MIDDLE)]
    assert redirects(standin) == 3


async def test_a_token_that_expires_during_a_body_is_renewed(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(proxy, digest))
    await gate.reached.wait()
    standin.state.expire_tokens()
    gate.release()
    assert await taking == RIGHT


async def test_an_upstream_that_always_breaks_off_is_given_up(
    standin: StandIn, proxy: RunningProxy
) -> None:
    """After a few attempts: they are six, within seconds, and then each reader hears of it."""
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", cut_after=MIDDLE))
    standin.faults.add(Fault(server="s3", skip=1, cut_after=10, times=None))
    readers = [take(proxy, digest) for _ in range(3)]
    taken = await asyncio.gather(*readers)
    assert [(t.status, t.whole) for t in taken] == [(200, False)] * 3
    assert all(BLOB.startswith(t.body) and len(t.body) <= MIDDLE + 60 for t in taken)
    assert ranges(standin) == [None, *(from_byte(MIDDLE + 10 * n) for n in range(6))]
    # What came is gone on with, from a whole page on.
    assert files(proxy) == [f"incoming/sha256-{digest.hex}"]
    standin.faults.clear()
    assert await take(proxy, digest) == RIGHT
    assert ranges(standin)[-1] == from_byte((MIDDLE + 49) // 4096 * 4096)


async def test_a_blob_that_is_deleted_during_its_body_is_given_up_at_once(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", hold_at=MIDDLE, cut_after=MIDDLE))
    taking = asyncio.create_task(take(proxy, digest))
    await gate.reached.wait()
    standin.state.delete_blob("app", digest)
    gate.release()
    assert not (await taking).whole
    asked = [r for r in standin.requests if r.server == "registry" and r.path == path_of(digest)]
    assert [r.status for r in asked] == [307, 404]
    assert (await proxy.client.ask("GET", path_of(digest))).status == 404
