"""The proxy as a process of its own in front of a stand-in in this one, for its memory's sake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.standin import StandIn
from tests.clients.serving import ServedProxy
from tests.faults.content import MIB, noise, seed
from tests.faults.wire import Download


@asynccontextmanager
async def served(folder: Path, standin: StandIn) -> AsyncIterator[ServedProxy]:
    """It has done a miss and a hit already: what it takes from now on is for what is under way."""
    proxy = ServedProxy(folder, standin)
    await asyncio.to_thread(proxy.start)
    try:
        [digest] = seed(standin, noise(4 * MIB, seed=3))
        for _ in range(2):
            async with Download(proxy.address, digest) as download:
                await download.read_head()
                got = 0
                while piece := await download.read():
                    got += len(piece)
                    if got == download.length:
                        break
        standin.forget_requests()
        proxy.forget_peak()
        yield proxy
    finally:
        await asyncio.to_thread(proxy.stop)
