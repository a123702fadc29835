"""The stand-in's time, which tests may move: tokens, URLs, rates and lag all go by it.

Nothing here waits.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Real time plus an offset, or standing still once frozen."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._frozen: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        base = time.time() if self._frozen is None else self._frozen
        return base + self._offset

    def stamp(self) -> datetime:
        """`now` in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        self._offset += seconds

    def freeze(self) -> None:
        """Stand still; `advance` still moves it."""
        if self._frozen is None:
            self._frozen = time.time()
