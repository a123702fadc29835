"""The disk budget as arithmetic: what is used, reserved, pinned and on its way out. No I/O."""

from __future__ import annotations

from typing import Final

from proxy.cache.policy import Entry, Policy

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
    leaving (no entry any more, but not yet unlinked).
    """

    def __init__(self, limit: int, policy: Policy) -> None:
        self.limit = limit
        self.used = 0
        self.reserved = 0
        self._policy = policy
        self._spare = min(_SPARE_MAX, limit // _SPARE_PART)
        self._pins: dict[bytes, int] = {}
        self._evictable = 0

    # Room

    @property
    def excess(self) -> int:
        """The bytes beyond the limit; more than 0 only when the disk held too much at start-up."""
        return max(0, self.used + self.reserved - self.limit)

    def shortage(self, need: int, *, urgent: bool = False) -> int:
        """How many bytes must go before `need` more fit; 0 when they fit.

        `urgent` needs may use the part of the budget that is kept back for them.
        """
        limit = self.limit if urgent else self.limit - self._spare
        return max(0, self.used + self.reserved + need - limit)

    def reserve(self, need: int) -> None:
        """Count `need` bytes as taken; the caller has seen that there is no shortage."""
        self.reserved += need

    def release(self, reserved: int) -> None:
        """Give a reservation back."""
        self.reserved -= reserved

    def charge(self, overhead: int) -> None:
        """Count bytes that are on disk and never evicted; less than 0 when they are gone."""
        self.used += overhead

    def victims(self, shortage: int) -> list[bytes] | None:
        """What to evict so that `shortage` bytes are freed; None when that much cannot be."""
        if shortage > self._evictable:
            return None
        chosen: list[bytes] = []
        for key, entry in self._policy.candidates():
            if shortage <= 0:
                break
            if key not in self._pins:
                chosen.append(key)
                shortage -= entry.disk
        return chosen

    # Entries

    def __len__(self) -> int:
        return len(self._policy)

    def add(self, key: bytes, entry: Entry) -> None:
        """A file that is on disk and may be evicted."""
        self._policy.add(key, entry)
        self.used += entry.disk
        if key not in self._pins:
            self._evictable += entry.disk

    def find(self, key: bytes) -> Entry | None:
        return self._policy.find(key)

    def use(self, key: bytes) -> None:
        self._policy.use(key)

    def leave(self, key: bytes) -> Entry | None:
        """Take an entry out of sight; its bytes stay counted until `gone`."""
        entry = self._policy.remove(key)
        if entry is not None and key not in self._pins:
            self._evictable -= entry.disk
        return entry

    def gone(self, entry: Entry) -> None:
        """The file of an entry that left is off the disk."""
        self.used -= entry.disk

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
        entry = self._policy.find(key)
        return 0 if entry is None else entry.disk
