"""The blobs of the cache that was last seen in a repository: what its next push will ask for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from proxy.cache import RecordStore
from proxy.oci import Digest
from proxy.services.registries import Target

# What caches are made of, last seen: about 150 bytes each.
_MAX_DIGESTS: Final = 50_000
_EXPECTED: Final = "expected"

_Place = tuple[str, str]


class Expected:
    """What is expected to be asked for, by repository; it outlives a restart.

    Invariants: `_count` is the number of digests in `_known`; `_writing` has one task for each
    repository whose record is being written.
    """

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self._known: OrderedDict[_Place, tuple[Digest, ...]] = OrderedDict()
        self._count = 0
        self._writing: dict[_Place, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Let what is being written come to its end."""
        if self._writing:
            await asyncio.wait(self._writing.values())

    def set(self, target: Target, digests: Sequence[Digest]) -> None:
        """A cache of these blobs has passed: who pushes the next one will ask for most of them."""
        new = tuple(dict.fromkeys(digests))
        if self._remember(target.key, new) and target.key not in self._writing:
            task = asyncio.ensure_future(self._write(target.key))
            self._writing[target.key] = task
            task.add_done_callback(lambda _: self._writing.pop(target.key))

    def find(self, target: Target) -> tuple[Digest, ...]:
        """What was set, or loaded, last; nothing where nothing was."""
        return self._known.get(target.key, ())

    async def load(self, target: Target) -> None:
        """Have `find` know what was set before a restart."""
        if target.key in self._known:
            return
        record = await self._records.find(_EXPECTED, *target.key, "")
        if target.key not in self._known:
            lines = [] if record is None else record.decode().split("\n")
            self._remember(target.key, tuple(Digest(line) for line in lines if line))

    def _remember(self, place: _Place, new: tuple[Digest, ...]) -> bool:
        """Whether it is another one than before."""
        old = self._known.pop(place, ())
        self._known[place] = new
        self._count += len(new) - len(old)
        while self._count > _MAX_DIGESTS and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._count -= len(gone)
        return new != old

    async def _write(self, place: _Place) -> None:
        written: tuple[Digest, ...] | None = None
        while (now := self._known.get(place)) is not None and now != written:
            await self._records.put(_EXPECTED, *place, "", "\n".join(now).encode())
            written = now
