"""Reservations, and whether the disk takes anything at the moment."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol

from proxy.cache.budget import Budget, disk_need
from proxy.cache.errors import NoSpace
from proxy.events import Event, Events, Kind

# Reservations that grow do so in steps, so that not every write asks.
_STEP: Final = 64 * 1024
# What says that the disk, and not this file or request, is the matter.
_REFUSALS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENODEV})
_PAUSE_MAX: Final = 60.0


class Maker(Protocol):
    """Who makes room: `Space.make_room`."""

    def __call__(self, need: int, *, urgent: bool) -> Awaitable[None]: ...


class Room:
    """A reservation. `held` is in bytes on disk; it is given back once, by `release` or by moving
    the file in that it was made for. `written` is how much of it is on disk already.
    """

    def __init__(
        self, budget: Budget, make_room: Maker, *, urgent: bool = False, held: int = 0
    ) -> None:
        """`held`: the bytes of a file that is written on, reserved and written by now."""
        self.held = self.written = held
        self._budget = budget
        self._make_room = make_room
        self._urgent = urgent

    async def grow(self, size: int) -> None:
        """Make the room large enough for a file of `size` bytes; raises `NoSpace`."""
        need = disk_need(size)
        if need > self.held:
            # The first step is exact, since the size is mostly known.
            more = need - self.held + (_STEP if self.held else 0)
            try:
                await self._make_room(more, urgent=self._urgent)
            except NoSpace:
                if more == need - self.held:
                    raise
                more = need - self.held
                await self._make_room(more, urgent=self._urgent)
            self.held += more

    def wrote(self, size: int) -> None:
        """So many bytes more of the file are on disk."""
        self.written += size
        self._budget.write(size)

    def release(self) -> None:
        self._budget.release(self.held, self.written)
        self.held = self.written = 0

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Health:
    """Whether the disk takes what is written to it.

    Once it has refused something for a reason of its own (it is full, or broken), nothing is stored
    for a pause, which doubles as long as it goes on refusing. The first file that is stored after
    that ends it.
    """

    def __init__(self, events: Events, *, pause: float, clock: Callable[[], float]) -> None:
        """`pause`: the first one, in seconds."""
        self.is_degraded = False
        self._events = events
        self._first_pause = pause
        self._pause = pause
        self._clock = clock
        self._until = 0.0
        self._why = ""

    def check(self) -> None:
        """Raises `NoSpace` during a pause."""
        if self._is_paused:
            raise NoSpace(f"the disk refused to store something a moment ago: {self._why}")

    @property
    def _is_paused(self) -> bool:
        return self.is_degraded and self._clock() < self._until

    def blame(self, error: BaseException | None) -> None:
        """Something failed; by the disk if that, or what it was caused by, is an `OSError`."""
        while error is not None and not isinstance(error, OSError):
            error = error.__cause__
        if error is not None:
            self.refused(error)

    def refused(self, error: OSError) -> None:
        if error.errno not in _REFUSALS or self._is_paused:
            return  # those who were writing at the same time are refused together
        self._why = str(error.strerror)
        self._until = self._clock() + self._pause
        self._degrade(
            f"the disk refuses writes ({self._why}): nothing is stored until it takes some"
        )
        self._pause = min(self._pause * 2, _PAUSE_MAX)

    def starved(self, floor: int) -> None:
        """Others have taken the file system's space, and the cache has none left to give."""
        self._degrade(
            f"the file system is full but for {floor} bytes that stay free, and not by the cache: "
            "nothing is stored until there is room"
        )

    def _degrade(self, detail: str) -> None:
        if not self.is_degraded:
            self.is_degraded = True
            self._events.emit(Event(Kind.DEGRADED, detail=detail))

    def took(self) -> None:
        """Something was stored."""
        if self.is_degraded:
            self.is_degraded = False
            self._pause = self._first_pause
            self._events.emit(Event(Kind.RECOVERED, detail="blobs are stored again"))
