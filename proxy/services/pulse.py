"""Whether the client of an upload sends anything worth waiting for.

What has come of a part that is not full cannot go upstream yet, and it counts as owed: others wait
until less is. A few clients that keep such parts for long would make all others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

# A client is slow that takes longer than that, in seconds, for so many bytes: a part of 5 MiB, the
# least that ECR takes, would be full after 25 s. The slowest of LANs is ten times as fast.
_SECONDS: Final = 5.0
_ENOUGH: Final = 1024 * 1024


class Pulse:
    """Of one upload, over all of its requests: the time in between is the client's, too.

    Whoever is slow is not hurried; what it has sent keeps nobody waiting meanwhile.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """`clock` gives seconds that never go back."""
        self._clock = clock or asyncio.get_running_loop().time
        self._ready_at = self._clock()  # since when it is the client's turn
        self._waited = 0.0
        self._got = 0
        self._was_slow = False

    @property
    def is_slow(self) -> bool:
        return self._was_slow or self._waited > _SECONDS

    async def watch(
        self,
        body: AsyncIterator[bytes],
        *,
        slow: Callable[[], None],
        quick: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        """The same body; `slow` is called as soon as it is, and `quick` when it is no more.

        The time that the reader takes between two pieces does not count.
        """
        loop = asyncio.get_running_loop()
        pieces = aiter(body)
        while True:
            waited = self._waited + self._clock() - self._ready_at
            timer = loop.call_later(max(0.0, _SECONDS - waited), slow)
            try:
                piece = await anext(pieces, b"")
            finally:
                timer.cancel()
            if not piece:
                return
            self._count(len(piece), quick)
            yield piece
            self._ready_at = self._clock()

    def _count(self, size: int, quick: Callable[[], None]) -> None:
        self._waited += self._clock() - self._ready_at
        self._ready_at = self._clock()
        self._got += size
        if self._got < _ENOUGH:
            return
        self._was_slow = self._waited > _SECONDS
        self._waited, self._got = 0.0, 0
        if not self._was_slow:
            quick()
