"""What tags were last known to point at: for a registry that lags, or is out of reach.

A tag moves, so none of this is told while upstream can be asked and has an answer of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy.cache import CacheError, RecordStore
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, Tag
from proxy.services.registries import Target

# ECR may deny for a moment what it has just taken (ECR.md §5); so long, in seconds, a tag that was
# set through the proxy is there whatever upstream says.
_LAG_SECONDS: Final = 60.0
# What a tag points at is written down anew when this is not younger, though it has not changed.
_REWRITE_SECONDS: Final = 300.0
# How often it is told that stale answers are given.
_TELL_SECONDS: Final = 60.0
_KNOWN_TAGS: Final = 20_000

_TAG: Final = "tag"

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a tag points at: a manifest without its bytes; `size` is in bytes."""

    digest: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class _Heard:
    """What upstream said, and when, in seconds since the epoch: it outlives the process."""

    pointer: Pointer
    at: float

    def dump(self) -> bytes:
        pointer = self.pointer
        record = [pointer.digest, pointer.media_type, pointer.size, round(self.at, 3)]
        return json.dumps(record).encode()

    @classmethod
    def load(cls, content: bytes) -> _Heard:
        """Raises `ValueError` if `content` is nothing that `dump` gave."""
        try:
            digest, media_type, size, at = json.loads(content)
            return cls(Pointer(Digest.parse(digest), str(media_type), int(size)), float(at))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError("the record says of no tag what it points at") from error


_UNREAD: Final = _Heard(Pointer(Digest(""), "", 0), 0.0)


class Tags:
    """Remembers each tag's manifest for `stale_seconds`, also over a restart.

    `clock` gives seconds that never go back, `now` seconds since the epoch. Invariant: what is in
    `_heard` is newer than the record on disk, or the same; None there means that nothing is known,
    whatever is on disk.
    """

    def __init__(
        self,
        records: RecordStore,
        events: Events,
        *,
        stale_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._events = events
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._now = now
        self._heard: LRUCache[_Key, _Heard | None] = LRUCache(_KNOWN_TAGS)
        self._written: LRUCache[_Key, _Heard] = LRUCache(_KNOWN_TAGS)
        self._pushed: LRUCache[_Key, tuple[Pointer, float]] = LRUCache(_KNOWN_TAGS)
        # Deleted by digest, and when: with all tags that it had.
        self._deleted: LRUCache[tuple[str, str, Digest], float] = LRUCache(_KNOWN_TAGS)
        self._tell_at: dict[str, float] = {}

    async def heard(self, target: Target, tag: Tag, pointer: Pointer, *, age: float = 0.0) -> None:
        """Upstream has just said that the tag points there, or did so that many seconds ago."""
        key = (*target.key, tag)
        heard = _Heard(pointer, self._now() - age)
        self._heard[key] = heard
        written = self._written.get(key)
        if (
            written is None
            or written.pointer != pointer
            or not 0 <= heard.at - written.at < _REWRITE_SECONDS
        ):
            self._written[key] = heard
            await self._records.put(_TAG, *key, heard.dump())

    async def pushed(self, target: Target, tag: Tag, pointer: Pointer) -> None:
        """Upstream has just set the tag, on our behalf."""
        self._pushed[(*target.key, tag)] = (pointer, self._clock())
        await self.heard(target, tag, pointer)

    async def forget(self, target: Target, tag: Tag) -> None:
        """Upstream has said something else of the tag, or was told to delete it."""
        key = (*target.key, tag)
        if self._heard.get(key, _UNREAD) is None:
            return  # and so it was before
        self._heard[key] = None
        self._pushed.pop(key, None)
        self._written.pop(key, None)
        try:
            await self._records.remove(_TAG, *key)
        except CacheError as error:
            # Nothing tells of it before a restart; and then the manifest must be there as well.
            self._events.emit(Event(Kind.TROUBLE, *key, detail=str(error)))

    def deleted(self, target: Target, digest: Digest) -> None:
        """Upstream was told to delete a manifest, with all tags that it had."""
        self._deleted[(*target.key, digest)] = self._now()
        for key, (pointer, _) in list(self._pushed.items()):
            if key[:2] == target.key and pointer.digest == digest:
                del self._pushed[key]

    def find_pushed(self, target: Target, tag: Tag) -> Pointer | None:
        """What the tag was set to through the proxy, so short a time ago that upstream may lag."""
        pushed = self._pushed.get((*target.key, tag))
        if pushed is None or self._clock() - pushed[1] >= _LAG_SECONDS:
            return None
        return pushed[0]

    async def find_stale(self, target: Target, tag: Tag) -> tuple[Pointer, float] | None:
        """What the tag was last known to point at, and how many seconds ago; None if that was too
        long ago, or nobody knows. Only for a time when upstream cannot be asked."""
        key = (*target.key, tag)
        heard = self._heard.get(key, _UNREAD)
        if heard is _UNREAD:
            heard = await self._read(key)
        if heard is None:
            return None
        age = self._now() - heard.at
        # A clock that was set back makes any age possible: then it is not known.
        if not -1 <= age < self._stale_seconds:
            return None
        if self._deleted.get((*target.key, heard.pointer.digest), float("-inf")) >= heard.at:
            return None
        return heard.pointer, max(age, 0.0)

    def tell(self, target: Target) -> None:
        """Say, once in a while, that tags are answered with what they were."""
        registry = target.registry.name
        now = self._clock()
        if now < self._tell_at.get(registry, now):
            return
        self._tell_at[registry] = now + _TELL_SECONDS
        detail = "it cannot be asked what tags point at; what they last pointed at is answered"
        self._events.emit(Event(Kind.TROUBLE, registry, detail=detail))

    async def _read(self, key: _Key) -> _Heard | None:
        record = await self._records.find(_TAG, *key)
        if record is None:
            return None
        try:
            heard = _Heard.load(record)
        except ValueError:
            return None  # another version of this program wrote it
        # Unless somebody was heard meanwhile.
        return self._heard.setdefault(key, heard)
