"""Who is evicted first. No I/O, no sizes summed, no pins: only an order over what is stored.

The policy keeps the entries itself, so that hundreds of thousands of blobs cost one table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored file: `size` is its length in bytes, `disk` what the file system counts for it."""

    size: int
    disk: int


class Policy(Protocol):
    """A table of entries with an opinion on which of them are worth least."""

    def __len__(self) -> int: ...

    def add(self, key: bytes, entry: Entry, *, mark: int = 0) -> None:
        """A key that is not in the table."""

    def find(self, key: bytes) -> Entry | None:
        """Looking is no use: the order stays."""

    def use(self, key: bytes) -> None:
        """A key that is in the table was asked for."""

    def remove(self, key: bytes) -> Entry | None: ...

    def candidates(self) -> Iterator[tuple[bytes, Entry]]:
        """Everything, what is to go first first; the table must not change meanwhile."""

    def entries(self) -> Iterator[tuple[bytes, Entry, int]]:
        """Everything with its mark (0 to 255), in an order that `add` restores the table by."""


class Lru:
    """Least recently used goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: bytes, entry: Entry, *, mark: int = 0) -> None:
        self._entries[key] = entry

    def find(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def use(self, key: bytes) -> None:
        self._entries.move_to_end(key)

    def remove(self, key: bytes) -> Entry | None:
        return self._entries.pop(key, None)

    def candidates(self) -> Iterator[tuple[bytes, Entry]]:
        return iter(self._entries.items())

    def entries(self) -> Iterator[tuple[bytes, Entry, int]]:
        return ((key, entry, 0) for key, entry in self._entries.items())
