"""Looking after the cache: listing, measuring, verifying, removing and pruning what it holds.

Each operation tells what it does in messages, which are dictionaries that JSON can hold. So it is
done in one way, whether the proxy does it for a command that asks over its socket, or the command
does it itself. Sizes are in bytes. What may take long begins with `{"total": N}` and goes on with
`{"done": n}`. One that cannot be ended as it was begun ends with `{"error": SENTENCE}`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from proxy.cache import BlobStore, CacheError
from proxy.oci import Digest
from proxy.sizes import Share, parse_share

_log = logging.getLogger(__name__)

Message: TypeAlias = dict[str, Any]
Messages: TypeAlias = AsyncGenerator[Message, None]

# Blobs in one message, so that a list of 300,000 neither costs as many writes nor holds up the
# event loop of a proxy. A message must stay below the 128 KiB that a reader takes as one line.
_PAGE: Final = 200
# Least time between two messages of progress.
_PROGRESS_SECONDS: Final = 0.1
# A prune evicts in so many steps, so that there is progress to tell.
_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a proxy, for a store that was opened without them: `size` is in bytes."""

    size: int
    min_free: Share


class Upkeep:
    """The operations on a store, by name: see `perform`.

    `limits` are told in place of the store's own.
    """

    def __init__(self, store: BlobStore, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits

    def perform(self, operation: str, arguments: object) -> Messages:
        """What an operation does, as it does it; raises `ValueError` for what is no operation.

        | operation | arguments           | messages                                            |
        |-----------|---------------------|-----------------------------------------------------|
        | `ls`      |                     | `blobs`: a page of what is stored, next to go first |
        | `stats`   |                     | `usage`                                             |
        | `verify`  | `rate` bytes/second | `damaged` blobs, `audit`, `verified`                |
        | `rm`      | `digests`           | `removed` or `missing`, one for each                |
        | `prune`   | `to` size or share  | `pruned`                                            |
        """
        match operation, arguments:
            case "ls", {}:
                messages = self._list()
            case "stats", {}:
                messages = self._measure()
            case "verify", {"rate": int(rate)} if rate >= 0:
                messages = self._verify(rate)
            case "rm", {"digests": [*digests]}:
                messages = self._remove([Digest.parse(str(digest)) for digest in digests])
            case "prune", {"to": str(to)}:
                messages = self._prune(parse_share(to))
            case _:
                raise ValueError(f"{operation} {arguments} is nothing that this version does")
        return _with_errors(messages)

    async def _list(self) -> Messages:
        await self._store.settled()
        blobs = iter(self._store.blobs())
        while page := list(islice(blobs, _PAGE)):
            yield {
                "blobs": [
                    {"digest": blob.digest, "size": blob.size, "disk": blob.disk} for blob in page
                ]
            }
            await asyncio.sleep(0)

    async def _measure(self) -> Messages:
        usage = asdict(await self._store.usage())
        if self._limits is not None:
            root = self._store.space.layout.root
            status = await asyncio.to_thread(os.statvfs, root)
            whole = status.f_blocks * status.f_frsize
            usage |= {"limit": self._limits.size, "floor": self._limits.min_free.of(whole)}
        yield {"usage": usage}

    async def _verify(self, rate: int) -> Messages:
        await self._store.settled()
        yield {"total": (await self._store.usage()).blob_bytes}
        blobs = done = damaged = 0
        told_at = time.monotonic()
        async with aclosing(self._store.verify(rate=rate)) as verifying:
            async for checked in verifying:
                blobs += 1
                done += checked.size
                if checked.problem:
                    damaged += 1
                    yield {
                        "damaged": checked.digest,
                        "size": checked.size,
                        "problem": checked.problem,
                    }
                if time.monotonic() - told_at >= _PROGRESS_SECONDS:
                    yield {"done": done}
                    told_at = time.monotonic()
        audit = await self._store.audit()
        yield {"audit": {**asdict(audit), "mended": audit.mended}}
        yield {"verified": {"blobs": blobs, "size": done, "damaged": damaged}}

    async def _remove(self, digests: list[Digest]) -> Messages:
        await self._store.settled()
        for digest in digests:
            yield {"removed" if await self._store.remove(digest) else "missing": digest}

    async def _prune(self, to: Share) -> Messages:
        """`enough`: it is down to that, or nothing is left that could go."""
        await self._store.settled()
        usage = await self._store.usage()
        target = to.of(usage.limit if self._limits is None else self._limits.size)
        excess = max(0, usage.used - target)
        freed = 0
        if excess:
            yield {"total": excess}
        while usage.used > target:
            gone = await self._store.shrink(max(target, usage.used - -(-excess // _STEPS)))
            usage = await self._store.usage()
            if gone == 0:
                break
            freed += gone
            yield {"done": min(freed, excess)}
        enough = usage.used <= target or usage.blobs == 0
        yield {"pruned": {"freed": freed, "used": usage.used, "target": target, "enough": enough}}


async def _with_errors(messages: Messages) -> Messages:
    async with aclosing(messages):
        try:
            async for message in messages:
                yield message
        except CacheError as error:
            yield {"error": str(error)}


@dataclass(frozen=True, slots=True)
class Rounds:
    """When the background verifies: seconds from the start to the first round, and from the start
    of one round to that of the next.

    Not at once, when clients need the disk; and a small cache is not to be read without end.
    """

    first: float = 300.0
    every: float = 3600.0


async def verify_in_rounds(
    store: BlobStore,
    *,
    rate: int,
    rounds: Rounds,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Verify all of the store over and over, `rate` bytes a second; never ends by itself.

    What it finds is quarantined and told by the store.
    """
    await sleep(rounds.first)
    while True:
        began = clock()
        try:
            await store.settled()
            await _verify_once(store, rate)
        except Exception:  # noqa: BLE001 the next round may do better, and the failure be seen
            _log.exception("the background verify failed")
        await sleep(max(0.0, began + rounds.every - clock()))


async def _verify_once(store: BlobStore, rate: int) -> None:
    blobs = damaged = 0
    async with aclosing(store.verify(rate=rate)) as verifying:
        async for checked in verifying:
            blobs += 1
            damaged += bool(checked.problem)
    level = logging.WARNING if damaged else logging.DEBUG
    _log.log(level, "background verify: %d blobs, %d of them damaged", blobs, damaged)
