"""The disk budget as arithmetic: what is used, reserved, pinned and on its way out. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from proxy.cache.layout import is_kept, is_partial, is_quarantined
from proxy.cache.policy import AgedLfu, Entry, Policy

# What the file system adds to a file: rounding to blocks, a block for its extents, perhaps a
# directory made for it. One part in a thousand covers the extents of badly fragmented large files.
_BLOCK: Final = 4096
_FLAT: Final = 4 * _BLOCK
_PART: Final = 1024

# Kept back for what must be stored whatever happens: small, since it is small things that need it.
_SPARE_MAX: Final = 4 * 1024 * 1024
_SPARE_PART: Final = 64


def disk_need(size: int) -> int:
    """The most that a file of `size` bytes takes on disk, in bytes."""
    return -(-size // _BLOCK) * _BLOCK + _FLAT + size // _PART


class Budget:
    """Accounts for every byte in the cache directory, in bytes as the file system counts them.

    Invariant: `used + reserved <= limit` ever since both began below it: reservations are granted
    only within the limit, and what is written against one is never more than it. `used` holds the
    entries, `overhead` (what is never evicted: directories, files that are not ours) and what is
    leaving (no entry any more, but not yet unlinked). `written` is the part of `reserved` that is
    on disk already.

    There is a second bound, the file system's: `floor` bytes of it stay free. How much is free is
    `observe`d now and then, and counted down from there.

    Leftovers (partial and quarantined blobs) are evicted before anything that the policy orders.
    The records that take a client's help to bring back are promises, and give way to no blob.
    """

    def __init__(self, limit: int, policy: Policy, *, floor: int = 0) -> None:
        self.limit = limit
        self.floor = floor
        self.used = 0
        self.reserved = 0
        self.written = 0
        self._leftovers = AgedLfu()
        self._policy = policy
        self._kept = AgedLfu()
        self._spare = min(_SPARE_MAX, limit // _SPARE_PART)
        self._pins: dict[bytes, int] = {}
        self._evictable = 0  # without those records
        self._headroom: int | None = None  # above the floor; None: not known
        self._granted = 0  # by all reservations ever
        self._leaving = 0  # of `used`
        self._foreseen = 0  # of `_leaving`: the file system may have counted it as free already

    # Room

    @property
    def excess(self) -> int:
        """The bytes beyond a bound.

        More than 0 only when the disk held too much at start-up, or others fill the file system.
        """
        return max(0, self.used + self.reserved - self.limit, -(self._headroom or 0))

    @property
    def is_over(self) -> bool:
        """Whether more is on disk than the limit, as when it was lowered."""
        return self.used + self.reserved > self.limit

    def shortage(self, need: int, *, urgent: bool = False) -> int:
        """How many bytes must go before `need` more fit; 0 when they fit.

        `urgent` needs may use the part of the budget that is kept back for them.
        """
        limit = self.limit if urgent else self.limit - self._spare
        return max(0, self.used + self.reserved + need - limit, self.floor_shortage(need))

    def floor_shortage(self, need: int) -> int:
        """How many bytes must go before the file system has room for `need` above the floor."""
        return 0 if self._headroom is None else max(0, need - self._headroom)

    @property
    def is_starved(self) -> bool:
        """Whether others leave the cache next to nothing of the file system, whatever it evicts."""
        room = None if self._headroom is None else self._headroom + self._evictable
        return room is not None and room < self._spare

    def reserve(self, need: int) -> None:
        """Count `need` bytes as taken; the caller has seen that there is no shortage."""
        self.reserved += need
        self._granted += need
        self._free(-need)

    def write(self, size: int) -> None:
        """So many bytes of a reservation have come to be on disk."""
        self.written += size

    def release(self, reserved: int, written: int = 0) -> None:
        """Give a reservation back, of which so much was written."""
        self.reserved -= reserved
        self.written -= written
        self._free(reserved - written)

    def charge(self, overhead: int) -> None:
        """Count bytes that are on disk and never evicted; less than 0 when they are gone."""
        self.used += overhead

    def mark(self) -> tuple[int, int]:
        """To be taken before the file system is asked what is free, and given to `observe`."""
        return self.reserved - self.written, self._granted

    def observe(self, free: int, mark: tuple[int, int]) -> None:
        """The file system has `free` bytes left, asked for after `mark` was taken.

        What is reserved and not written is as good as taken; what was written or granted since the
        mark is counted twice rather than not at all. What is leaving may be off the disk already,
        so its end adds nothing.
        """
        unwritten, granted = mark
        self._foreseen = self._leaving
        self._headroom = free - self.floor - unwritten - (self._granted - granted)

    def _free(self, size: int) -> None:
        if self._headroom is not None:
            self._headroom += size

    def victims(
        self, shortage: int, *, partly: bool = False, kept: bool = False
    ) -> list[bytes] | None:
        """What to evict so that `shortage` bytes are freed; None when that much cannot be.

        `partly`: what can be freed then. `kept`: after all else, also the records that take a
        client's help to bring back, which give way to one another and to nothing else.
        """
        evictable = self._evictable
        tables = [self._leftovers, self._policy]
        if kept and shortage > evictable:
            tables.append(self._kept)
            unpinned = (e.disk for key, e in self._kept.candidates() if key not in self._pins)
            evictable += sum(unpinned)
        if shortage > evictable and not partly:
            return None
        chosen: list[bytes] = []
        for key, entry in chain.from_iterable(table.candidates() for table in tables):
            if shortage <= 0:
                break
            if key not in self._pins:
                chosen.append(key)
                shortage -= entry.disk
        return chosen

    # Entries

    def __len__(self) -> int:
        return len(self._leftovers) + len(self._policy) + len(self._kept)

    def snapshot(self) -> list[bytes]:
        """The keys of this moment, the next one to go first; 300,000 take some 30 ms (measured)."""
        return [*self._leftovers.keys(), *self._policy.keys(), *self._kept.keys()]

    def entries(self) -> Iterator[tuple[bytes, Entry, int]]:
        """All, with their marks: added again in this order, they are evicted in the same order."""
        tables = (self._leftovers, self._policy, self._kept)
        return chain.from_iterable(table.entries() for table in tables)

    def leftovers(self) -> Iterator[tuple[bytes, Entry]]:
        """The partial and the quarantined blobs."""
        return self._leftovers.candidates()

    def add(self, key: bytes, entry: Entry, *, mark: int = 0) -> None:
        """A file that is on disk and may be evicted; `mark` as `entries` gave it."""
        self._table(key).add(key, entry, mark=mark)
        self.used += entry.disk
        if key not in self._pins and not is_kept(key):
            self._evictable += entry.disk

    def find(self, key: bytes) -> Entry | None:
        return self._table(key).find(key)

    def use(self, key: bytes) -> None:
        self._table(key).use(key)

    def leave(self, key: bytes) -> Entry | None:
        """Take an entry out of sight; its bytes stay counted until `gone`, `stay` or `reuse`."""
        entry = self._table(key).remove(key)
        if entry is not None:
            self._leaving += entry.disk
            if key not in self._pins and not is_kept(key):
                self._evictable -= entry.disk
        return entry

    def gone(self, entry: Entry) -> None:
        """The file of an entry that left is off the disk."""
        foreseen = min(self._foreseen, entry.disk)
        self._foreseen -= foreseen
        self._free(entry.disk - foreseen)
        self.stay(entry)

    def stay(self, entry: Entry) -> None:
        """What an entry that left has on disk is counted in another way from now on."""
        self.used -= entry.disk
        self._leaving -= entry.disk
        self._foreseen = min(self._foreseen, self._leaving)

    def reuse(self, entry: Entry) -> None:
        """The file of an entry that left is written on: it is a reservation that is used up."""
        self.stay(entry)
        self.reserved += entry.disk
        self.written += entry.disk

    def _table(self, key: bytes) -> Policy:
        if is_kept(key):
            return self._kept
        if is_partial(key) or is_quarantined(key):
            return self._leftovers
        return self._policy

    # Pins

    def pin(self, key: bytes) -> None:
        """Keep an entry from eviction until as many `unpin`; it may be added only later."""
        if key not in self._pins:
            self._evictable -= self._disk_of(key)
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: bytes) -> bool:
        """True when this was the last pin."""
        left = self._pins[key] - 1
        if left:
            self._pins[key] = left
            return False
        del self._pins[key]
        self._evictable += self._disk_of(key)
        return True

    def is_pinned(self, key: bytes) -> bool:
        return key in self._pins

    def _disk_of(self, key: bytes) -> int:
        """What may be evicted of a key if it is not pinned."""
        entry = None if is_kept(key) else self.find(key)
        return 0 if entry is None else entry.disk
