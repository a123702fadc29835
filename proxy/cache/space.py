"""Room on disk, and who has it: reserving, moving files in, pinning, and making room by eviction.

Knows keys and files, not what is in them. The arithmetic is the budget's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Final

from proxy.cache.budget import Budget, disk_need
from proxy.cache.disk import Disk, Signal, to_the_end
from proxy.cache.errors import DiskFailed, NoSpace
from proxy.cache.files import directory_bytes, disk_bytes, make_directory, remove
from proxy.cache.layout import Layout, digest_of, is_blob, is_evictable
from proxy.cache.policy import Entry
from proxy.cache.scan import Found
from proxy.events import Event, Events, Kind

# Times of last use are written down when so many have changed, and at the end.
_TOUCHES: Final = 1024
# Reservations that grow do so in steps, so that not every write asks.
_STEP: Final = 64 * 1024


class Room:
    """A reservation. `held` is in bytes on disk; it is given back once, by `release` or by moving
    the file in that it was made for.
    """

    def __init__(self, space: Space, held: int, *, urgent: bool) -> None:
        self.held = held
        self._space = space
        self._urgent = urgent

    async def grow(self, size: int) -> None:
        """Make the room large enough for a file of `size` bytes; raises `NoSpace`."""
        need = disk_need(size)
        if need > self.held:
            more = need + _STEP - self.held
            try:
                await self._space.make_room(more, urgent=self._urgent)
            except NoSpace:
                more = need - self.held
                await self._space.make_room(more, urgent=self._urgent)
            self.held += more

    def release(self) -> None:
        self._space.budget.release(self.held)
        self.held = 0

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Turn:
    """The right to move a file in or out under a key."""

    def __init__(self, space: Space, key: bytes) -> None:
        self._space: Space | None = space
        self._key = key

    def end(self) -> None:
        """Let others; more than once does no harm."""
        if self._space is not None:
            space, self._space = self._space, None
            space.vacate(self._key)
            space.unpin(self._key)


class Space:
    """The files of one cache directory and the budget they share.

    Invariant: a key in `_busy` has a file on its way in or out, and no other may be moved in or
    out under it; `_doomed` are the busy ones that wait for their last pin.
    """

    def __init__(self, layout: Layout, disk: Disk, budget: Budget, events: Events) -> None:
        self.layout = layout
        self.disk = disk
        self.budget = budget
        self.events = events
        self.blob_count = 0
        self._turns = asyncio.Lock()  # those that need an eviction take turns
        self._busy: set[bytes] = set()
        self._freed = Signal()
        self._doomed: dict[bytes, Entry] = {}
        self._directories: dict[str, int] = {}
        self._touched: dict[bytes, int] = {}
        self._chores: set[asyncio.Task[None]] = set()

    async def load(self, found: Found) -> None:
        """Count what was found on disk, and evict what is more than the budget."""
        self._directories = found.directories
        self.budget.charge(sum(found.directories.values()) + found.other_bytes)
        for key, entry in found.entries:
            if is_evictable(key):
                self.add(key, entry)
            else:
                self.budget.charge(entry.disk)
        await self.trim()

    async def close(self) -> None:
        """End what was begun, removals that wait for a reader too: or their files would be back."""
        while self._doomed:
            await self.unlink_taken(*self._doomed.popitem())
        while self._chores:
            await asyncio.wait(self._chores)
        await self._write_times()

    # Room

    async def reserve(self, size: int, *, urgent: bool = False) -> Room:
        """Room for a file of `size` bytes; raises `NoSpace`."""
        room = Room(self, 0, urgent=urgent)
        need = disk_need(size)
        await self.make_room(need, urgent=urgent)
        room.held = need
        return room

    async def make_room(self, need: int, *, urgent: bool) -> None:
        """Reserve `need` bytes on disk, evicting as it must; raises `NoSpace`."""
        if self._turns.locked() or self.budget.shortage(need, urgent=urgent):
            # In turns: what one has evicted is not taken by another that came later.
            async with self._turns:
                await self._evict(self.budget.shortage(need, urgent=urgent))
                if self.budget.shortage(need, urgent=urgent):
                    raise NoSpace(f"{need} bytes find no room: the disk refused an eviction")
                self.budget.reserve(need)
        else:
            self.budget.reserve(need)

    async def trim(self) -> None:
        """Evict what is beyond the limit."""
        async with self._turns:
            try:
                await self._evict(self.budget.excess)
            except NoSpace as error:
                self.trouble(str(error))

    async def _evict(self, shortage: int) -> None:
        if shortage == 0:
            return
        victims = self.budget.victims(shortage)
        if victims is None:
            raise NoSpace(
                f"{shortage} bytes more than the budget of {self.budget.limit} has room for: "
                "what is stored is in use"
            )
        leaving = [(key, entry) for key in victims if (entry := self.take(key)) is not None]
        await to_the_end(self._unlink(leaving, evicted=True))

    async def _unlink(self, leaving: Sequence[tuple[bytes, Entry]], *, evicted: bool) -> None:
        paths = [self.layout.path_of(key) for key, _ in leaving]
        errors = await self.disk.run(_unlink_all, paths)
        for (key, entry), error in zip(leaving, errors, strict=True):
            self._touched.pop(key, None)
            if error is None:
                self.budget.gone(entry)
                if evicted and is_blob(key):
                    self.events.emit(Event(Kind.EVICTED, reference=digest_of(key), size=entry.size))
                self.vacate(key)
            else:
                # Still on disk, so still counted; as the last in line it is not tried again soon.
                self.put_back(key, entry)
                self.trouble(f"cannot remove a file: {error}")

    # Entries

    def find(self, key: bytes) -> Entry | None:
        return self.budget.find(key)

    def use(self, key: bytes) -> None:
        """The key, which is there, was asked for."""
        self.budget.use(key)
        self._touched[key] = time.time_ns()
        if len(self._touched) >= _TOUCHES:
            self._chore(self._write_times())

    def pin(self, key: bytes) -> None:
        """Keep a file from eviction until as many `unpin`."""
        self.budget.pin(key)

    def unpin(self, key: bytes) -> None:
        if self.budget.unpin(key) and key in self._doomed:
            self._chore(self.unlink_taken(key, self._doomed.pop(key)))

    async def remove(self, key: bytes) -> bool:
        """Take a file out of sight at once and off the disk when nobody reads it any more.

        False when it is not there.
        """
        if key in self._doomed:
            return False
        async with self.turn(key):
            pass  # whoever is at it has moved it in or out
        entry = self.take(key)
        if entry is None:
            return False
        if self.budget.is_pinned(key):
            self._doomed[key] = entry
        else:
            await self.unlink_taken(key, entry)
        return True

    def take(self, key: bytes) -> Entry | None:
        """Take an entry out of sight; its file is the caller's until they `vacate` the key.

        None when there is none, or when it is on its way.
        """
        entry = None if key in self._busy else self.budget.leave(key)
        if entry is not None:
            self._busy.add(key)
            self.blob_count -= is_blob(key)
        return entry

    async def unlink_taken(self, key: bytes, entry: Entry) -> None:
        """Unlink what `take` gave."""
        await to_the_end(self._unlink([(key, entry)], evicted=False))

    def put_back(self, key: bytes, entry: Entry) -> None:
        """Give back what `take` gave: it is on disk still."""
        self.budget.gone(entry)
        self.add(key, entry)
        self.vacate(key)

    def reserved_for(self, key: bytes, entry: Entry) -> Room:
        """The room of a file that `take` gave and that is written on."""
        self.budget.gone(entry)
        self.budget.reserve(entry.disk)
        self.vacate(key)
        return Room(self, entry.disk, urgent=False)

    def add(self, key: bytes, entry: Entry) -> None:
        """A file that is on disk under its key."""
        self.budget.add(key, entry)
        self.blob_count += is_blob(key)

    async def move_in(
        self, key: bytes, fd: int, path: str, room: Room, *, arrived: Callable[[bool], None]
    ) -> None:
        """Make a whole file durable and visible under `key`, and account for it.

        `arrived` is called as it becomes visible, so that nothing can happen in between; with
        False when there is one already, and the new one is removed. Raises `DiskFailed`, with the
        file still at `path` and the room still held.
        """
        async with self.turn(key) as turn:
            await to_the_end(self._move_in(key, fd, path, room, turn, arrived))
        if self.budget.excess:
            # The file system counts more than it should need: the budget is held all the same.
            await self.trim()

    async def _move_in(
        self,
        key: bytes,
        fd: int,
        path: str,
        room: Room,
        turn: Turn,
        arrived: Callable[[bool], None],
    ) -> None:
        new = self.find(key) is None
        target = self.layout.path_of(key)
        status: os.stat_result | None = None
        try:
            if new:
                status = await self.disk.run(_move, fd, path, target)
            else:
                await self.disk.run(remove, path)
        except OSError as error:
            raise DiskFailed(f"cannot store {path}: {error}") from error
        finally:
            await self.count_directories(target)
        # No await from here on: it is found, accounted for, and known to its mover in one step.
        room.release()
        if status is not None:
            self.add(key, Entry(status.st_size, disk_bytes(status)))
        turn.end()
        arrived(new)

    async def count_directories(self, path: str) -> None:
        """Account for the directories that a file was, or was to be, moved to."""
        sizes = await self.disk.run(directory_bytes, os.path.dirname(path))
        for directory, size in sizes.items():
            self.budget.charge(size - self._directories.get(directory, 0))
            self._directories[directory] = size

    def trouble(self, detail: str, reference: str = "") -> None:
        self.events.emit(Event(Kind.TROUBLE, reference=reference, detail=detail))

    # Turns at a key

    @asynccontextmanager
    async def turn(self, key: bytes) -> AsyncIterator[Turn]:
        """Nobody else moves a file in or out under the key meanwhile."""
        while key in self._busy:
            await self._freed.wait()
        self._busy.add(key)
        self.pin(key)  # nor is what there is evicted
        turn = Turn(self, key)
        try:
            yield turn
        finally:
            turn.end()

    def vacate(self, key: bytes) -> None:
        """Let others have their turn at a key."""
        self._busy.discard(key)
        self._freed.wake()

    # Times of use

    async def _write_times(self) -> None:
        touched, self._touched = self._touched, {}
        times = [(self.layout.path_of(key), at) for key, at in touched.items()]
        await self.disk.run(_set_times, times)

    def _chore(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


# Blocking work


def _unlink_all(paths: Sequence[str]) -> list[OSError | None]:
    """Unlink files; what stood in the way, for each of them."""
    errors: list[OSError | None] = []
    for path in paths:
        try:
            remove(path)
        except OSError as error:
            errors.append(error)
        else:
            errors.append(None)
    return errors


def _move(fd: int, path: str, target: str) -> os.stat_result:
    """Make a file durable and rename it; gives its status."""
    os.fsync(fd)
    make_directory(os.path.dirname(target))
    os.rename(path, target)
    return os.stat(target)


def _set_times(times: Sequence[tuple[str, int]]) -> None:
    for path, used_at in times:
        # It may have been evicted since, or be out of reach: then its order is lost, no more.
        with suppress(OSError):
            os.utime(path, ns=(used_at, os.stat(path).st_mtime_ns))
