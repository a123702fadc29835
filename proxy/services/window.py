"""The unsent bytes of an upload that finds no room on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator

_PIECE = 1024 * 1024


class Window:
    """Bytes of an upload between what upstream has and what the client has sent, in memory.

    Bounded by its user, who sends and releases before it takes more than a part. Nothing before
    `start` can be read again, so a part that upstream loses cannot be replaced.
    """

    def __init__(self, *, start: int = 0) -> None:
        self._start = start
        self._bytes = bytearray()

    @property
    def size(self) -> int:
        """The bytes received in all, released ones included."""
        return self._start + len(self._bytes)

    async def append(self, chunk: bytes) -> None:
        self._bytes += chunk

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, _PIECE):
            yield bytes(self._bytes[at - self._start : min(at + _PIECE, end) - self._start])

    def release(self, end: int) -> None:
        """Forget the bytes before `end`: upstream has them."""
        del self._bytes[: end - self._start]
        self._start = end
