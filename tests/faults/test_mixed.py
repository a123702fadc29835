"""Readers of every kind at once, on an upstream that keeps breaking: drawn at random, from a seed.

The seed is printed with a failure; FAULTS_SEED=… draws the same again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from proxy.oci import Digest
from proxy.standin import Fault, StandIn
from tests.faults.content import KIB, MIB, noise, seed
from tests.faults.served import served
from tests.faults.wire import Download

READERS = 120
IDLERS = 8
GROWTH = 48 * MIB
# Two more than fit the buffers of sockets, and one at whose end a range is far ahead of a fill.
SIZES = (1, 20 * KIB, 700 * KIB, 3 * MIB + 1, 12 * MIB, 24 * MIB + 5)
LARGE = 2  # so many, at the end


class Content:
    """The blobs, and what was wrong with what came of them."""

    def __init__(self, standin: StandIn, chance: random.Random) -> None:
        self.blobs = [noise(size, seed=chance.randrange(2**32)) for size in SIZES]
        self.digests = seed(standin, *self.blobs)

    async def check(
        self, download: Download, number: int, start: int, end: int, *, pace: float, upto: int
    ) -> None:
        """Read `upto` bytes of a range at a pace of so many seconds a piece."""
        blob = self.blobs[number]
        await download.read_head()
        whole = (start, end) == (0, len(blob))
        assert (download.status, download.length) == (200 if whole else 206, end - start)
        at = start
        while at < min(end, start + upto):
            piece = bytes(await download.read())
            assert piece, f"blob {number} broke off at {at} of {start}-{end}"
            assert piece == blob[at : at + len(piece)], f"blob {number} is wrong at {at}"
            at += len(piece)
            if pace:
                await asyncio.sleep(pace)


def break_often(standin: StandIn, digests: list[Digest], chance: random.Random) -> None:
    """Each blob's first requests are cut or refused; some of the cuts are at its very ends."""
    for digest, size in zip(digests, SIZES, strict=True):
        for nth in range(3):
            at = chance.choice((0, size - 1, chance.randrange(size)))
            standin.faults.add(Fault(server="s3", path=digest.hex, skip=nth, cut_after=at))
        if chance.random() < 0.5:
            status = chance.choice((500, 503))
            standin.faults.add(Fault(server="s3", path=digest.hex, skip=1, status=status))


async def test_slow_vanishing_ranged_and_idle_readers_get_every_byte_right(
    standin: StandIn, tmp_path: Path, chance: random.Random
) -> None:
    """What the process takes at its peak grows by less than 48 MiB with 128 of them."""
    content = Content(standin, chance)
    kinds: Counter[str] = Counter()

    async def read(number: int) -> None:
        size = SIZES[number]
        kind = chance.choice(("whole", "slow", "vanishing", "range", "tail"))
        kinds[kind] += 1
        start, end, pace, upto = 0, size, 0.0, size
        if kind == "slow":
            pace = chance.uniform(0, 0.01)
        elif kind == "vanishing":
            upto = chance.randrange(size)
        elif kind == "range":
            start = chance.randrange(size)
            end = chance.randrange(start, size) + 1
        elif kind == "tail":
            start = chance.randrange(size)
        await asyncio.sleep(chance.uniform(0, 1))
        span = None if (start, end) == (0, size) else (start, end)
        async with Download(proxy.address, content.digests[number], span) as download:
            await content.check(download, number, start, end, pace=pace, upto=upto)

    async with served(tmp_path / "proxy", standin) as proxy, AsyncExitStack() as stack:
        before = proxy.peak_memory()
        break_often(standin, content.digests, chance)
        idle = []
        for nth in range(IDLERS):
            number = len(SIZES) - 1 - nth % LARGE
            download = Download(proxy.address, content.digests[number])
            idle.append((await stack.enter_async_context(download), number))
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(read(chance.randrange(len(SIZES))))
        # Nobody has waited for those who have not read a byte. They get theirs when they want it.
        async with asyncio.TaskGroup() as group:
            for download, number in idle:
                size = SIZES[number]
                group.create_task(content.check(download, number, 0, size, pace=0, upto=size))
        growth = proxy.peak_memory() - before
    assert len(kinds) == 5, kinds
    assert growth < GROWTH, f"{growth / MIB:.1f} MiB"
