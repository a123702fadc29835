"""How fast a registry takes what it is sent: measured while something is on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

# Over how many of the last seconds in which something was sent.
_WINDOW: Final = 10.0
# What is smaller says more of the way's latency than of what it carries.
_TELLING: Final = 256 * 1024


class Pace:
    """The rate of one registry, all its connections together. `clock` never goes back (seconds).

    Bytes count when upstream has confirmed them, time while at least one sending is on its way; so
    a client that has nothing to send makes the rate no lower, and a registry that goes silent does.
    Invariant: `_active` are the seconds with something on its way up to `_since`, the last change.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running = 0
        self._active = 0.0
        self._since = clock()
        self._first: float | None = None  # from when on what is in `_confirmed` was sent
        self._confirmed: deque[tuple[float, int]] = deque()  # (active seconds, bytes)

    @property
    def rate(self) -> float | None:
        """Bytes a second; None until something of a telling size was sent."""
        now = self._tick()
        if self._first is None or not self._confirmed:
            return None
        # The newest one stays however old: silence then makes it count for less and less.
        while len(self._confirmed) > 1 and self._confirmed[0][0] < now - _WINDOW:
            # What is left took from there on, and may have taken longer than the window.
            self._first, _ = self._confirmed.popleft()
        return sum(size for _, size in self._confirmed) / max(now - self._first, 0.001)

    def begin(self, size: int) -> None:
        """A request with a body of `size` bytes sets out."""
        if size >= _TELLING:
            now = self._tick()
            if self._first is None:
                self._first = now
            self._running += 1

    def end(self, size: int, *, confirmed: bool) -> None:
        """It has its answer; `confirmed`: upstream has the bytes."""
        if size >= _TELLING:
            now = self._tick()
            self._running -= 1
            if confirmed:
                self._confirmed.append((now, size))

    def _tick(self) -> float:
        now = self._clock()
        if self._running:
            self._active += now - self._since
        self._since = now
        return self._active
