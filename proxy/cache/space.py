"""Room on disk, and who has it: reserving, moving files in, pinning, and making room by eviction.

Knows keys and files, not what is in them. The arithmetic is the budget's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from proxy.cache.budget import Budget
from proxy.cache.disk import Disk, SharedFile, to_the_end
from proxy.cache.errors import DiskFailed, NoSpace
from proxy.cache.files import disk_bytes, free_bytes, is_as_long, move, remove, remove_all
from proxy.cache.layout import Layout, digest_of, is_blob
from proxy.cache.overhead import Overhead
from proxy.cache.policy import Entry
from proxy.cache.room import Health, Room
from proxy.cache.scan import look
from proxy.cache.times import Times
from proxy.cache.turns import Turn, Turns
from proxy.events import Event, Events, Kind

# So long after the start, in seconds, what is to be stored waits for the directory to be read.
# From then on it passes through unstored, and each reader fetches it by itself.
_SHORTLY: Final = 1.0
# For so long, in seconds, it is taken for true what the file system said of its free space.
_FRESH: Final = 0.25
_PART: Final = 500  # files evicted in one go
Arrived: TypeAlias = Callable[[bool], None]


class Space:
    """The files of one cache directory and the budget they share.

    Invariants: a key in `_moving` has a file on its way in or out, and no other may be moved in or
    out under it; `_doomed` are those that go with their last pin, unless a new one replaces them:
    then the old ones' blocks are in use, as `_lingering`, until nobody reads either.
    Until `complete` the budget does not know all files: then nothing is stored, blobs are looked
    for on disk, and `_unseen` are those that were taken off the disk before they were counted.
    """

    def __init__(
        self, layout: Layout, disk: Disk, budget: Budget, events: Events, *, pause: float
    ) -> None:
        """`pause`: for how many seconds a disk that refuses a write is left alone at first."""
        loop = asyncio.get_running_loop()
        self.layout = layout
        self.disk = disk
        self.budget = budget
        self.events = events
        self.health = Health(events, pause=pause, clock=loop.time)
        self.blob_count = 0
        self.blob_bytes = 0
        self.overhead = Overhead(layout, disk, budget)
        self.load_deadline: float | None = loop.time() + _SHORTLY
        self._clock = loop.time
        self._turns = asyncio.Lock()  # those that need an eviction take turns
        self._moving = Turns()
        self._doomed: dict[bytes, Entry] = {}
        self._lingering: dict[bytes, list[Entry]] = {}
        self._times = Times(layout, disk)
        self._chores: set[asyncio.Task[None]] = set()
        self._unseen: set[bytes] | None = set()
        self._loaded = asyncio.Event()
        self._unreadable = ""
        self._observed = -_FRESH
        self._exceeds = False

    # Loading

    @property
    def is_loading(self) -> bool:
        return self._unseen is not None

    def load(self, key: bytes, entry: Entry, mark: int = 0) -> None:
        """Count a file that was found on disk as the process started."""
        gone = self._unseen is not None and key in self._unseen
        if not gone and self.budget.find(key) is None:
            self.add(key, entry, mark=mark)

    async def complete(self, folders: Mapping[str, int], other: int) -> None:
        """All is counted; `other`: the bytes of files that are no entries."""
        self.overhead.begin(folders, other)
        for key in self._times.keys:
            if self.budget.find(key) is not None:
                self.budget.use(key)
        self._unseen = None
        await self.trim()
        self._loaded.set()

    def give_up(self, reason: str) -> None:
        """What is on disk cannot be counted: nothing is stored."""
        self._unreadable = reason
        self._loaded.set()

    async def settled(self) -> None:
        """Wait until all is counted; raises `NoSpace` where it cannot be."""
        await self._loaded.wait()
        if self._unreadable:
            raise NoSpace(self._unreadable)

    async def close(self) -> None:
        """End what was begun, removals that wait for a reader too, or their files would be back."""
        while self._doomed:
            await self.unlink_taken(*self._doomed.popitem())
        while self._chores:
            await asyncio.wait(self._chores)
        await self._times.write()

    async def tend(self) -> None:
        """What is to be done every few seconds: see that the floor holds, write down times."""
        await self._times.write()
        if not self.is_loading:
            async with self._turns:  # not in the middle of an eviction
                await self._observe()
            await self.trim()

    # Room

    async def reserve(self, size: int, *, urgent: bool = False) -> Room:
        """Room for a file of `size` bytes; raises `NoSpace`."""
        room = Room(self.budget, self.make_room, urgent=urgent)
        await room.grow(size)
        return room

    async def admit(self, *, urgent: bool = False) -> None:
        """Raises `NoSpace` while nothing is stored, whatever its size."""
        if self.is_loading:
            try:
                async with asyncio.timeout_at(None if urgent else self.load_deadline):
                    await self.settled()
            except TimeoutError as error:
                raise NoSpace("the cache directory is still being read") from error
        if not urgent:
            self.health.check()

    async def make_room(self, need: int, *, urgent: bool) -> None:
        """Reserve `need` bytes on disk, evicting as it must; raises `NoSpace`."""
        await self.admit(urgent=urgent)
        if self._clock() - self._observed > _FRESH or self.budget.floor_shortage(need):
            await self._observe()
        if self._turns.locked() or self.budget.shortage(need, urgent=urgent):
            # In turns: what one has evicted is not taken by another that came later.
            async with self._turns:
                await self._evict(self.budget.shortage(need, urgent=urgent), kept=urgent)
                if self.budget.floor_shortage(need):
                    await self._observe()  # the last look may have been in the middle of it
                if self.budget.shortage(need, urgent=urgent):
                    raise NoSpace(f"{need} bytes find no room: the disk refused an eviction")
                self.budget.reserve(need)
        else:
            self.budget.reserve(need)

    async def _observe(self) -> None:
        mark = self.budget.mark()
        try:
            free = await self.disk.run(free_bytes, self.layout.root)
        except OSError as error:
            self.trouble(f"cannot ask for the free space of {self.layout.root}: {error}")
            return
        if free is not None:
            self.budget.observe(free, mark)
        self._observed = self._clock()

    async def trim(self) -> None:
        """Evict what is beyond the limit, or below the floor, as far as it is not in use."""
        async with self._turns:
            await self._evict(self.budget.excess, partly=True, kept=self.budget.is_over)
        excess = self.budget.excess
        if excess and not self._exceeds:
            self.trouble(
                f"{self.layout.root} is {excess} bytes beyond its budget of {self.budget.limit}, "
                f"or beyond what leaves {self.budget.floor} free: what is left in it is in use"
            )
        self._exceeds = excess > 0

    async def shrink(self, size: int) -> int:
        """Evict until at most `size` bytes are used, as far as that goes; gives how many went."""
        async with self._turns:
            before = self.budget.used
            await self._evict(max(0, before + self.budget.reserved - size), partly=True)
            return before - self.budget.used

    async def _evict(self, shortage: int, *, partly: bool = False, kept: bool = False) -> None:
        if shortage == 0:
            return
        victims = self.budget.victims(shortage, partly=partly, kept=kept)
        if victims is None:
            if self.budget.is_starved:
                self.health.starved(self.budget.floor)
            raise NoSpace(
                f"{shortage} bytes more than {self.budget.limit} have room for, or than leave "
                f"{self.budget.floor} of the file system free: what is stored is in use"
            )
        # `partly` may be most of the cache, which taken at once would hold the event loop up.
        step = _PART if partly else len(victims)
        for at in range(0, len(victims), step):
            part = [key for key in victims[at : at + step] if not self.budget.is_pinned(key)]
            leaving = [(key, entry) for key in part if (entry := self.take(key)) is not None]
            await to_the_end(self._unlink(leaving, evicted=True))

    async def _unlink(self, leaving: Sequence[tuple[bytes, Entry]], *, evicted: bool) -> None:
        paths = [self.layout.path_of(key) for key, _ in leaving]
        errors = await self.disk.run_slowly(remove_all, paths)
        for (key, entry), error in zip(leaving, errors, strict=True):
            self._times.forget(key)
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
        entry = self.budget.find(key)
        if entry is None and self._unseen is not None and is_blob(key) and key not in self._unseen:
            # In place, not in a thread: this is for the first seconds only, and who finds a blob
            # must have it pinned before anybody else has a turn.
            return None if key in self._moving else look(self.layout.path_of(key))
        return entry

    def use(self, key: bytes) -> None:
        """The key, which is there, was asked for."""
        if self.budget.find(key) is not None:
            self.budget.use(key)
        self._times.touch(key)
        if self._times.are_many:
            self._chore(self._times.write())

    def pin(self, key: bytes) -> None:
        """Keep a file from eviction until as many `unpin`."""
        self.budget.pin(key)

    def unpin(self, key: bytes) -> None:
        if not self.budget.unpin(key):
            return
        for replaced in self._lingering.pop(key, ()):
            self.budget.gone(replaced)
        if key in self._doomed:
            self._moving.occupy(key)  # free: who has a turn has a pin
            self._chore(self.unlink_taken(key, self._doomed.pop(key)))

    async def remove(self, key: bytes) -> bool:
        """Take a file out of sight at once, off the disk when nobody reads it. False: not there."""
        if key in self._doomed:
            return False
        async with self.turn(key):
            pass  # whoever is at it has moved it in or out
        entry = self.take(key)
        if entry is None:
            return False
        if self.budget.is_pinned(key):
            self._doomed[key] = entry
            self.vacate(key)
        else:
            await self.unlink_taken(key, entry)
        return True

    def take(self, key: bytes) -> Entry | None:
        """Take an entry out of sight; its file is the caller's until they `vacate` the key.

        None when there is none, or when it is on its way.
        """
        entry = None if key in self._moving else self.withdraw(key)
        if entry is not None:
            self._moving.occupy(key)
        return entry

    async def claim(self, key: bytes) -> Entry | None:
        """`take` when nobody is at it any more; the key is the caller's even if there is none."""
        await self._moving.free(key)
        entry = self.withdraw(key)
        self._moving.occupy(key)
        return entry

    def withdraw(self, key: bytes) -> Entry | None:
        """Take an entry out of sight, during a turn at its key; its bytes stay counted."""
        entry = self.budget.leave(key)
        if entry is not None:
            self._count(key, entry, -1)
        elif self._unseen is not None:
            entry = self.find(key)
            if entry is not None:  # counted until it is gone
                self.budget.add(key, entry)
                self.budget.leave(key)
        if self._unseen is not None:
            self._unseen.add(key)
        return entry

    async def unlink_taken(self, key: bytes, entry: Entry) -> None:
        await to_the_end(self._unlink([(key, entry)], evicted=False))

    def put_back(self, key: bytes, entry: Entry) -> None:
        """Give back what `take` gave: it is on disk still."""
        self.budget.stay(entry)
        self.add(key, entry)
        self.vacate(key)

    def reserved_for(self, entry: Entry) -> Room:
        """The room of a file that `take` or `claim` gave and that is written on."""
        self.budget.reuse(entry)
        return Room(self.budget, self.make_room, held=entry.disk)

    def add(self, key: bytes, entry: Entry, *, mark: int = 0) -> None:
        """A file that is on disk under its key."""
        self.budget.add(key, entry, mark=mark)
        self._count(key, entry, 1)

    def _count(self, key: bytes, entry: Entry, change: int) -> None:
        if is_blob(key):
            self.blob_count += change
            self.blob_bytes += change * entry.size

    async def move_in(
        self, key: bytes, file: SharedFile, path: str, room: Room, *, arrived: Arrived
    ) -> None:
        """Make a whole file durable and visible under `key`, and account for it.

        `arrived` is called as it becomes visible, so that nothing can happen in between; with
        False when there is one already, and the new one is removed. One of another length is
        damaged, and replaced. Raises `DiskFailed`, with the file at `path` and the room still held.
        """
        async with self.turn(key) as turn:
            await to_the_end(self._move_in(key, file, path, room, turn, arrived))
        if self.budget.excess:
            # The file system counts more than it should need: the budget is held all the same.
            await self.trim()

    async def _move_in(
        self,
        key: bytes,
        file: SharedFile,
        path: str,
        room: Room,
        turn: Turn,
        arrived: Arrived,
    ) -> None:
        known = self.find(key)
        target = self.layout.path_of(key)
        status: os.stat_result | None = None
        try:
            if known is None or not await self.disk.run(is_as_long, file.fd, target):
                status = await self.disk.run_slowly(move, file.fd, path, target)
            else:
                await self.disk.run(remove, path)
        except OSError as error:
            raise DiskFailed(f"cannot store {path}: {error}") from error
        finally:
            await self.overhead.measure(target, path)
        # No await from here on: it is found, accounted for, and known to its mover in one step.
        if status is None:
            file.afterwards(room.release)  # somebody may read it: its blocks are in use until then
        else:
            room.release()
            if known is not None and (replaced := self.withdraw(key)) is not None:
                self.budget.gone(replaced)
            if (doomed := self._doomed.pop(key, None)) is not None:
                self._lingering.setdefault(key, []).append(doomed)
            self.add(key, Entry(status.st_size, disk_bytes(status)))
            self.health.took()
        turn.end()
        arrived(status is not None)

    def trouble(
        self, detail: str, reference: str = "", *, cause: BaseException | None = None
    ) -> None:
        """Something went wrong; the disk is the matter if it is an `OSError` that says so."""
        self.events.emit(Event(Kind.TROUBLE, reference=reference, detail=detail))
        self.health.blame(cause)

    # Turns at a key

    @asynccontextmanager
    async def turn(self, key: bytes) -> AsyncIterator[Turn]:
        """Nobody else moves a file in or out under the key meanwhile, nor is it evicted."""
        async with self._moving.turn(key, then=lambda: self.unpin(key)) as turn:
            self.pin(key)
            yield turn

    def is_moving(self, key: bytes) -> bool:
        """Whether a file is on its way in or out, or will be when its last reader leaves."""
        return key in self._moving or key in self._doomed

    def vacate(self, key: bytes) -> None:
        """Let others have their turn at a key."""
        self._moving.vacate(key)

    def _chore(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
