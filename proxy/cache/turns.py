"""One mover at a time for each key: no file is moved in or out while another one is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proxy.cache.disk import Signal


class Turn:
    """The right to move a file in or out under a key."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """Let others; more than once does no harm."""
        if self._end is not None:
            end, self._end = self._end, None
            end()


class Turns:
    """The keys that have a file on its way in or out."""

    def __init__(self) -> None:
        self._busy: set[bytes] = set()
        self._freed = Signal()

    def __contains__(self, key: bytes) -> bool:
        return key in self._busy

    async def free(self, key: bytes) -> None:
        """Wait until nobody is at the key: true until the next await."""
        while key in self._busy:
            await self._freed.wait()

    def occupy(self, key: bytes) -> None:
        """Begin a turn at a key that is free."""
        self._busy.add(key)

    def vacate(self, key: bytes) -> None:
        """Let others have their turn at a key."""
        self._busy.discard(key)
        self._freed.wake()

    @asynccontextmanager
    async def turn(
        self, key: bytes, *, then: Callable[[], None] | None = None
    ) -> AsyncIterator[Turn]:
        """Nobody else moves a file in or out under the key meanwhile; `then` is called after it."""
        await self.free(key)
        self.occupy(key)

        def end() -> None:
            self.vacate(key)
            if then is not None:
                then()

        turn = Turn(end)
        try:
            yield turn
        finally:
            turn.end()
