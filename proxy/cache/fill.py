"""A blob on its way into the cache: one task fetches, writes and verifies, readers follow.

The task belongs to the store. What a fill that breaks off leaves on disk, the next one goes on
with.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Final

from proxy.cache.disk import SharedFile, to_the_end
from proxy.cache.errors import Corrupt, DiskFailed, FillFailed, NoSpace
from proxy.cache.files import create, disk_bytes, open_write, remove
from proxy.cache.layout import blob_key, partial_key
from proxy.cache.policy import Entry
from proxy.cache.reader import Progress, Reader, read, tell, total_of, verify
from proxy.cache.room import Room
from proxy.cache.sources import PATIENCE, Patience, Source, Tap
from proxy.cache.space import Space
from proxy.cache.writer import Writer
from proxy.errors import RangeInvalid
from proxy.events import Kind
from proxy.oci import Digest

# Less than this is not worth a file that waits for someone to go on with it.
_WORTH: Final = 64 * 1024
# Of those who join, so many make a difference to who is evicted first, and no crowd does more.
_JOINS: Final = 7
# What is left of an earlier time is cut to whole pages, so that at least its last byte comes anew:
# a range that begins at the end of a blob is none.
_PAGE: Final = 4096


class _Shorter(Exception):
    """The blob is no longer than what there was of it, which must be of something else."""


class Fill:
    """One blob being fetched, or the end of that.

    Invariants: a fill is in the store's table until it has ended or is given up; from its first
    step to its end nobody else is at its partial file.
    """

    def __init__(
        self,
        space: Space,
        digest: Digest,
        source: Source,
        *,
        size: int | None,
        ended: Callable[[Fill], None],
        abandon_below: int = 0,
        patience: Patience = PATIENCE,
    ) -> None:
        """`ended` is called once, as it ends or is given up: which happens when all readers have
        left and fewer than `abandon_below` bytes have come.
        """
        self.digest = digest
        self.source = source
        self._space = space
        self._key = blob_key(digest)
        self._partial = partial_key(self._key)
        self._path = space.layout.path_of(self._partial)
        self._progress = Progress(digest, size)
        self._report_end: Callable[[Fill], None] | None = ended
        self._abandon_below = abandon_below
        self._patience = patience
        self._readers = 0
        self._joins = 0
        self._claimed = False
        self._room: Room | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_stored(cls, space: Space, digest: Digest, source: Source, size: int) -> Fill:
        """A fill that has ended well already: the blob is on disk."""
        fill = cls(space, digest, source, size=size, ended=lambda _: None)
        progress = fill._progress
        progress.position = size
        progress.opened = progress.verified = progress.stored = progress.ended = True
        return fill

    def join(self) -> None:
        """Somebody wants the blob who would have used it, had it been stored: it is used so often
        when it is.
        """
        self._joins += 1

    # For readers

    @property
    def position(self) -> int:
        """How many of its bytes are on disk."""
        return self._progress.position

    @property
    def is_whole(self) -> bool:
        """Whether all of the blob is on disk and verified: what is read costs the source nothing.

        It is so some time before the store finds the blob: its file must be made durable first.
        """
        return self._progress.verified and (self._progress.stored or not self._progress.ended)

    async def total(self) -> int | None:
        """The blob's size in bytes, None while nobody knows it; waits for the source's answer.

        Raises what the source raises when it is first opened, unchanged; and `Corrupt` for a blob
        that has come as no bytes at all, of which none could be withheld.
        """
        self._readers += 1
        try:
            return await total_of(self._progress)
        finally:
            self._leave()

    def reader(self, start: int = 0, end: int | None = None) -> Reader:
        """The bytes from `start` up to `end` (exclusive, None: the end of the blob), as they come.

        To be closed by the caller, even if it reads nothing. See `reader.read`.
        """
        self._readers += 1
        pieces = read(self._space, self.source, self._progress, start, end, patience=self._patience)
        return Reader(pieces, self._leave)

    def _leave(self) -> None:
        self._readers -= 1
        if self._readers == 0 and self._abandon_below:
            # Who has waited for the size comes back as a reader in the same step.
            asyncio.get_running_loop().call_soon(self._abandon)

    def _abandon(self) -> None:
        unwanted = self._readers == 0 and self._progress.position < self._abandon_below
        if unwanted and not self._progress.verified and self._report_end is not None:
            # Out of the table first: nobody joins a fill that is being given up.
            self._report()
            if self._task is not None:
                self._task.cancel()

    # The writer

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        return self._task

    async def close(self) -> None:
        """Stop, and wait for that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def ended(self) -> None:
        """Wait until it is stored, or is not going to be."""
        while not self._progress.ended:
            await self._progress.signal.wait()

    def when_over(self, call: Callable[[], None]) -> None:
        """Have something called, later, when nothing of it runs any more."""
        if self._task is None:
            asyncio.get_running_loop().call_soon(call)
        else:
            # Not as it reports its end: one that is given up still runs then.
            self._task.add_done_callback(lambda _: call())

    async def _run(self) -> None:
        progress = self._progress
        failure: Exception | None = None
        keep = False
        try:
            no_room = await self._take_up()
            try:
                await self._fetch(progress.position, no_room)
            except _Shorter:
                await self._drop_partial()
                await self._fetch(0, no_room)
            verify(self.digest, progress.hasher)
            progress.verified = True
            progress.signal.wake()
            await self._publish()
        except asyncio.CancelledError:
            why = "given up, since nobody wanted it" if self._report_end is None else "ended"
            failure = FillFailed(f"{self.digest}: its download was {why}")
            keep = True
            raise
        except NoSpace as error:
            tell(self._space, progress, Kind.BYPASS, f"streamed through unstored: {error}")
        except DiskFailed as error:
            self._space.trouble(f"{self.digest} is not stored: {error}", self.digest, cause=error)
        except Corrupt as error:
            tell(self._space, progress, Kind.CORRUPT, str(error))
            failure = error
        except Exception as error:  # noqa: BLE001 the source's: it is for the readers to raise
            failure = error
            keep = True
        finally:
            await to_the_end(self._end(failure, keep=keep))

    async def _take_up(self) -> NoSpace | None:
        """Go on with what there is of the blob from an earlier time.

        Gives the reason if nothing can be stored now: the source is asked for the size all the
        same.
        """
        space = self._space
        try:
            await space.admit()
        except NoSpace as error:
            return error
        entry = await space.claim(self._partial)
        self._claimed = True
        if entry is None:
            return None
        self._room = space.reserved_for(entry)
        try:
            fd = await space.disk.open(open_write, self._path)
        except OSError as error:
            space.trouble(f"cannot go on with {self._path}: {error}", self.digest)
            await self._drop_partial()
            return None
        self._progress.file = SharedFile(space.disk, fd)
        try:
            self._progress.position = await space.disk.run(_cut, fd)
        except OSError as error:
            space.trouble(f"cannot go on with {self._path}: {error}", self.digest)
        if self._progress.position == 0:
            await self._drop_partial()
        return None

    async def _drop_partial(self) -> None:
        """Begin anew: nobody reads yet."""
        file, self._progress.file = self._progress.file, None
        self._progress.position = 0
        if file is not None:
            file.drop()
        # Ours until it is given back: who is cancelled in between clears up in the end.
        if self._room is not None and await self._removed():
            self._room.release()
            self._room = None

    async def _fetch(self, start: int, no_room: NoSpace | None) -> None:
        """Have the blob's bytes from `start` on in the file; raises `NoSpace`, `DiskFailed`.

        Raises `_Shorter` where the blob ends before that, and nobody has been told anything.
        """
        progress = self._progress
        async with AsyncExitStack() as stack:
            tap = Tap(
                self.source,
                self.digest,
                start,
                expected=progress.total,
                patience=self._patience,
            )
            try:
                await stack.enter_async_context(tap)
            except RangeInvalid as error:
                if start == 0:
                    raise
                raise _Shorter from error
            if start and tap.total is not None and tap.total <= start:
                raise _Shorter
            progress.total = tap.total
            progress.opened = True
            progress.signal.wake()
            if no_room is not None:
                raise no_room
            await self._receive(tap)

    async def _receive(self, tap: Tap) -> None:
        space, progress = self._space, self._progress
        if self._room is None:
            self._room = await space.reserve(tap.total or 0)
        else:
            await self._room.grow(max(tap.total or 0, progress.position))
        if progress.file is None:
            try:
                fd = await space.disk.open(create, self._path)
            except OSError as error:
                raise DiskFailed(f"cannot create {self._path}: {error}") from error
            progress.file = SharedFile(space.disk, fd)
        progress.signal.wake()
        writer = Writer(
            space.disk,
            progress.file.fd,
            progress.hasher,
            self._wrote,
            position=progress.position,
        )
        progress.hashed = lambda: writer.hashed
        try:
            async with aclosing(tap.chunks()) as chunks:
                async for chunk in chunks:
                    await self._room.grow(tap.position)
                    await writer.feed(chunk)
            await writer.finish()
        except NoSpace:
            await writer.finish()
            raise
        finally:
            await to_the_end(writer.stop())

    def _wrote(self, batch: bytes) -> None:
        assert self._room is not None  # noqa: S101 it was made before the file
        self._room.wrote(len(batch))
        self._progress.position += len(batch)
        self._progress.latest = batch
        self._progress.signal.wake()

    async def _publish(self) -> None:
        file, room = self._progress.file, self._room
        assert file is not None and room is not None  # noqa: S101, PT018 received
        await self._space.move_in(self._key, file, self._path, room, arrived=self._arrived)

    def _arrived(self, new: bool) -> None:
        assert self._progress.file is not None  # noqa: S101 it was moved
        self._progress.stored = True
        for _ in range(min(self._joins, _JOINS)):
            self._space.use(self._key)
        self._pin_for_readers(self._key)
        self._finish(None)
        if new:
            tell(self._space, self._progress, Kind.STORED)

    def _pin_for_readers(self, key: bytes) -> None:
        """Let the last one's leaving be what lets the file be evicted."""
        if self._progress.file is not None:
            self._space.pin(key)
            self._progress.file.afterwards(lambda: self._space.unpin(key))

    async def _end(self, failure: Exception | None, *, keep: bool) -> None:
        """Clear up after a fill that did not arrive; what it has may be left for the next one."""
        if self._progress.ended:
            return
        room, file = self._room, self._progress.file
        left = None
        if keep and file is not None:
            left = await self._worth_keeping(file)
        if left is not None and room is not None:
            room.release()
            self._space.add(self._partial, left)
            self._pin_for_readers(self._partial)
        elif room is not None and await self._removed():
            if file is None:
                room.release()
            else:
                # Its blocks are in use until the last reader has left.
                file.afterwards(room.release)
        self._finish(failure)

    async def _worth_keeping(self, file: SharedFile) -> Entry | None:
        try:
            status = await self._space.disk.run(os.fstat, file.fd)
        except OSError as error:
            self._space.trouble(f"cannot look at {self._path}: {error}", self.digest)
            return None
        return Entry(status.st_size, disk_bytes(status)) if status.st_size >= _WORTH else None

    def _finish(self, failure: Exception | None) -> None:
        # No await in here: whoever finds the fill in the table finds it running.
        progress = self._progress
        file, progress.file = progress.file, None
        progress.latest = b""
        progress.failure = failure
        progress.ended = True
        self._report()
        if self._claimed:
            self._space.vacate(self._partial)
        if file is not None:
            file.drop()
        progress.signal.wake()

    def _report(self) -> None:
        if self._report_end is not None:
            report, self._report_end = self._report_end, None
            report(self)

    async def _removed(self) -> bool:
        """Unlink what was written; where that fails, its room stays taken."""
        try:
            await self._space.disk.run(remove, self._path)
        except OSError as error:
            self._space.trouble(f"cannot remove {self._path}: {error}", self.digest)
            return False
        return True


def _cut(fd: int) -> int:
    """Cut a file to whole pages, fewer than there are; gives how many bytes are left."""
    size = os.fstat(fd).st_size
    left = max(0, size - 1) // _PAGE * _PAGE
    os.ftruncate(fd, left)
    return left
