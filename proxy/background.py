"""Work that goes on beside the rest while a context lasts. A leaf."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

_log = logging.getLogger(__name__)


@asynccontextmanager
async def every(seconds: float, work: Callable[[], Awaitable[None] | None]) -> AsyncIterator[None]:
    """Do some work at intervals while the context lasts."""

    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                pending = work()
                if pending is not None:
                    await pending
            except Exception:  # noqa: BLE001 housekeeping must go on, and its failure be seen
                _log.exception("housekeeping failed")

    async with beside(loop()):
        yield


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do endless work while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
