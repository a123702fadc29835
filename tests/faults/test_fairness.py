"""Many blobs over one uplink: none of them makes the others wait, whatever becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from proxy.events import Kind
from proxy.oci import Digest
from proxy.standin import Fault, StandIn
from tests.faults.content import KIB, MIB, Taken, files, noise, seed, take
from tests.faults.wire import Download
from tests.running import RunningProxy

HUGE = noise(MIB, seed=4) * 256
SMALL = [noise(256 * KIB, seed=10 + number) for number in range(19)]
# More than there are threads for the disk, and than may be asked of a registry at once.
MANY = 40


@pytest.fixture
def small(standin: StandIn) -> list[Digest]:
    return seed(standin, *SMALL)


async def assert_all_get_theirs(proxy: RunningProxy, digests: list[Digest]) -> None:
    taken = await asyncio.gather(*(take(proxy, digest) for digest in digests))
    assert taken == [Taken(200, blob, whole=True) for blob in SMALL]


async def count(download: Download, most: int) -> int:
    got = 0
    while got < most and (piece := await download.read()):
        got += len(piece)
    return got


async def test_nineteen_small_blobs_pass_a_huge_one(
    standin: StandIn, proxy: RunningProxy, small: list[Digest]
) -> None:
    """It comes as fast as it can, and has begun before them."""
    [huge] = seed(standin, HUGE)
    end = standin.faults.add(Fault(server="s3", path=huge.hex, hold_at=len(HUGE) - MIB))
    async with Download(proxy.address, huge) as download:
        await download.read_head()
        begun = len(await download.read())
        rest = asyncio.create_task(count(download, len(HUGE) - begun))
        all_but_the_end = asyncio.create_task(end.reached.wait())
        smalls = asyncio.create_task(assert_all_get_theirs(proxy, small))
        await asyncio.wait({all_but_the_end, smalls}, return_when=asyncio.FIRST_COMPLETED)
        assert not all_but_the_end.done(), "the huge one came before the small ones"
        await smalls
        end.release()
        assert await rest == len(HUGE) - begun


@pytest.mark.parametrize("where", ["registry", "s3", "body"])
async def test_blobs_that_stall_hold_nobody_up(
    standin: StandIn, proxy: RunningProxy, small: list[Digest], where: str
) -> None:
    stalled = seed(standin, *(noise(MIB, seed=100 + number) for number in range(MANY)))
    gates = [
        standin.faults.add(
            Fault(server="s3", path=digest.hex, hold_at=100 * KIB)
            if where == "body"
            else Fault(server=where, method="GET", path=digest.hex, hold=True)
        )
        for digest in stalled
    ]
    taking = [asyncio.create_task(take(proxy, digest)) for digest in stalled]
    for gate in gates:
        await gate.reached.wait()
    await assert_all_get_theirs(proxy, small)
    assert not any(task.done() for task in taking)
    for gate in gates:
        gate.release()
    assert all([(await task).whole for task in taking])


@pytest.mark.parametrize("stored", [False, True])
async def test_clients_that_never_read_hold_nobody_up(
    standin: StandIn, proxy: RunningProxy, small: list[Digest], stored: bool
) -> None:
    """Neither the others, nor the fill that they began."""
    [huge] = seed(standin, HUGE[: 24 * MIB])
    if stored:
        assert (await take(proxy, huge)).whole
        await proxy.until(Kind.STORED)
    async with AsyncExitStack() as stack:
        for _ in range(MANY):
            await stack.enter_async_context(Download(proxy.address, huge))
        await proxy.until(Kind.HIT if stored else Kind.JOIN, MANY - (not stored))
        await assert_all_get_theirs(proxy, small)
        assert (await take(proxy, huge)).whole
    await proxy.until(Kind.STORED, 1 + len(SMALL))
    assert len([name for name in files(proxy) if name.startswith("blobs/")]) == 1 + len(SMALL)
