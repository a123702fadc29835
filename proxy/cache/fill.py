"""A blob on its way into the cache: one task writes, any number of readers follow.

The task belongs to the store. Readers come and go at their own speed and change nothing; none of
them holds the source or another reader up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from proxy.cache.disk import SharedFile, Signal, to_the_end
from proxy.cache.errors import Corrupt, DiskFailed, FillFailed, NoSpace
from proxy.cache.files import READ_BYTES, create, open_read, remove
from proxy.cache.layout import blob_key
from proxy.cache.sources import Source, Tap
from proxy.cache.space import Room, Space
from proxy.cache.writer import Writer
from proxy.events import Event, Kind
from proxy.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

# A reader that begins further ahead than this of what has come goes to the source by itself.
FAR_AHEAD: Final = 16 * 1024 * 1024
# What is withheld until the digest is verified: enough that nobody takes a compressed stream, whose
# last bytes are its checksum, for a whole one.
TAIL: Final = 16 * 1024


class Fill:
    """One blob being fetched, or the end of that.

    `position` is how many of its bytes are on disk. While the fill runs it only grows; it ends in
    one of three ways: stored, failed (`_failure` is set, and every reader gets it), or unstored:
    there is no room or the disk refuses, and readers go on from the source, each at its own offset.

    Invariant: a fill is in the store's table exactly until it has ended, and nothing of it is on
    disk under its temporary name from then on.
    """

    def __init__(
        self,
        space: Space,
        digest: Digest,
        source: Source,
        *,
        size: int | None,
        ended: Callable[[Fill], None],
    ) -> None:
        self.digest = digest
        self.source = source
        self.position = 0
        self._latest = b""  # the bytes just before `position`, for readers who keep up
        self._space = space
        self._key = blob_key(digest)
        self._total = size
        self._report_end = ended
        self._hasher: _Hash = digest.hasher()
        self._signal = Signal()
        self._opened = False
        self._verified = False
        self._stored = False
        self._ended = False
        self._failure: Exception | None = None
        self._file: SharedFile | None = None
        self._room: Room | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_stored(cls, space: Space, digest: Digest, source: Source, size: int) -> Fill:
        """A fill that has ended well already: the blob is on disk."""
        fill = cls(space, digest, source, size=size, ended=lambda _: None)
        fill.position = size
        fill._opened = fill._verified = fill._stored = fill._ended = True
        return fill

    # For readers

    @property
    def is_whole(self) -> bool:
        """Whether all of the blob is on disk and verified: what is read costs the source nothing.

        It is so some time before the store finds the blob: its file must be made durable first.
        """
        return self._verified and (self._stored or not self._ended)

    async def total(self) -> int | None:
        """The blob's size in bytes, None while nobody knows it; waits for the source's answer.

        Raises what the source raises when it is first opened, unchanged.
        """
        while not self._opened and not self._ended:
            await self._signal.wait()
        if not self._opened and self._failure is not None:
            raise self._failure
        return self.position if self._verified else self._total

    async def reader(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (exclusive, None: the end of the blob), as they come.

        The last bytes of the blob are withheld until its digest is verified. A range that ends
        before them is not protected like that, nor is one that goes to the source by itself from
        the middle of the blob. Raises `FillFailed` naming the digest, or what the source raises
        when it is opened.
        """
        total = await self.total()
        stop = end if total is None else min(total, total if end is None else end)
        at = start if stop is None else min(start, stop)
        if self._verified or at - self.position <= FAR_AHEAD:
            async with aclosing(self._follow(at, stop)) as pieces:
                async for piece in pieces:
                    at += len(piece)
                    yield piece
            if self._is_complete(at, stop):
                return
        async with aclosing(self._straight(at, stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def _follow(self, at: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """What the file has and gets of a range; ends early where the reader must go elsewhere."""
        file = await self._hold_file()
        if file is None:
            return
        try:
            while not self._is_complete(at, stop):
                if self._failure is not None:
                    raise self._failure
                limit = self._limit(stop)
                if at < limit:
                    piece = self._recall(at, limit) or await file.read(at, limit)
                    at += len(piece)
                    yield piece
                elif self._ended:
                    return
                else:
                    await self._signal.wait()
        except DiskFailed as error:
            self._space.trouble(f"cannot read {self.digest}: {error}", self.digest)
        finally:
            file.drop()

    def _recall(self, at: int, limit: int) -> bytes:
        """What memory has from `at` on, as much as one read is for; empty where only disk has it.

        A reader who keeps up gets what was written last without a trip to a thread.
        """
        begin = at - (self.position - len(self._latest))
        if begin < 0:
            return b""
        return self._latest[begin : begin + min(limit - at, READ_BYTES)]

    async def _hold_file(self) -> SharedFile | None:
        """The file to read from, held for the caller; None when there is none (any more)."""
        while self._file is None and not self._ended:
            await self._signal.wait()
        if self._file is not None:
            self._file.hold()
            return self._file
        if self._failure is not None:
            raise self._failure
        if self._space.find(self._key) is None or not self._stored:
            return None
        self._space.pin(self._key)
        try:
            fd = await self._space.disk.open(open_read, self._space.layout.path_of(self._key))
        except OSError as error:
            self._space.unpin(self._key)
            self._space.trouble(f"cannot open {self.digest}: {error}", self.digest)
            return None
        except asyncio.CancelledError:
            self._space.unpin(self._key)
            raise
        return SharedFile(self._space.disk, fd, lambda: self._space.unpin(self._key))

    async def _straight(self, at: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """A range from the source, unstored; verified where all before it was, up to the end."""
        hasher = self._hash_at(at) if self._reaches_end(stop) else None
        kept = b""
        async with Tap(self.source, self.digest, at, expected=self._total) as tap:
            if self._total not in (None, tap.total):
                raise FillFailed(f"{self.digest}: its size was {self._total} and is {tap.total}")
            async with aclosing(tap.chunks()) as chunks:
                async for chunk in chunks:
                    if hasher is None:
                        piece = chunk if stop is None else chunk[: stop - at]
                    else:
                        await self._space.disk.run(hasher.update, chunk)
                        whole = tap.position if tap.total is None else tap.total
                        kept += chunk
                        free = max(0, whole - TAIL - at)
                        piece, kept = kept[:free], kept[free:]
                    if piece:
                        at += len(piece)
                        yield piece
                    if hasher is None and at == stop:
                        return
        if hasher is not None:
            try:
                _verify(self.digest, hasher)
            except Corrupt as error:
                self._tell(Kind.CORRUPT, str(error))
                raise
            if kept:
                yield kept

    # What a reader may have

    def _reaches_end(self, stop: int | None) -> bool:
        return stop is None or stop >= (self.position if self._total is None else self._total)

    def _limit(self, stop: int | None) -> int:
        """The offset up to which a reader may read now."""
        # Where it has ended unstored, the rest comes from the source and is withheld there.
        if self._verified or self._ended or not self._reaches_end(stop):
            return self.position if stop is None else min(stop, self.position)
        whole = self.position if self._total is None else self._total
        return max(0, min(self.position, whole - TAIL))

    def _is_complete(self, at: int, stop: int | None) -> bool:
        """Whether a reader who stands at `at` has all of its range, and may be told so."""
        if self._verified:
            return at >= (self.position if stop is None else min(stop, self.position))
        return stop is not None and at >= stop and not self._reaches_end(stop)

    def _hash_at(self, at: int) -> _Hash | None:
        """A hash that stands at an offset, where there is one that nobody else uses."""
        if at == 0:
            return self.digest.hasher()
        if at == self.position and self._ended:
            return self._hasher.copy()
        return None

    # The writer

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, and wait for that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            async with Tap(self.source, self.digest, expected=self._total) as tap:
                self._total = tap.total
                self._opened = True
                self._signal.wake()
                await self._receive(tap)
            _verify(self.digest, self._hasher)
            self._verified = True
            self._signal.wake()
            await self._publish()
        except asyncio.CancelledError:
            failure = FillFailed(f"{self.digest}: the cache was closed while it was being fetched")
            raise
        except NoSpace as error:
            detail = f"streamed through unstored: {error}"
            self._tell(Kind.BYPASS, detail)
        except DiskFailed as error:
            self._space.trouble(f"{self.digest} is not stored: {error}", self.digest)
        except Corrupt as error:
            self._tell(Kind.CORRUPT, str(error))
            failure = error
        except Exception as error:  # noqa: BLE001 the source's: it is for the readers to raise
            failure = error
        finally:
            await to_the_end(self._end(failure))

    async def _receive(self, tap: Tap) -> None:
        """Write what comes until it is whole; raises `NoSpace` or `DiskFailed`."""
        space = self._space
        self._room = await space.reserve(tap.total or 0)
        path = space.layout.incoming_of(self._key)
        try:
            fd = await space.disk.open(create, path)
        except OSError as error:
            raise DiskFailed(f"cannot create {path}: {error}") from error
        self._file = SharedFile(space.disk, fd)
        self._signal.wake()
        writer = Writer(space.disk, fd, self._hasher, self._progress)
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

    def _progress(self, batch: bytes) -> None:
        self.position += len(batch)
        self._latest = batch
        self._signal.wake()

    async def _publish(self) -> None:
        assert self._file is not None and self._room is not None  # noqa: S101, PT018 received
        path = self._space.layout.incoming_of(self._key)
        await self._space.move_in(self._key, self._file.fd, path, self._room, arrived=self._arrived)

    def _arrived(self, new: bool) -> None:
        assert self._file is not None  # noqa: S101 it was moved
        self._stored = True
        # For the readers that are at it: the last one's leaving lets it be evicted.
        self._space.pin(self._key)
        self._file.then = lambda: self._space.unpin(self._key)
        self._finish(None)
        if new:
            self._tell(Kind.STORED)

    async def _end(self, failure: Exception | None) -> None:
        """Clear up after a fill that did not arrive."""
        if self._ended:
            return
        room = self._room
        if room is not None and await self._removed():
            if self._file is None:
                room.release()
            else:
                # Its blocks are in use until the last reader has left.
                self._file.then = room.release
        self._finish(failure)

    def _finish(self, failure: Exception | None) -> None:
        # No await in here: whoever finds the fill in the table finds it running.
        file, self._file = self._file, None
        self._latest = b""
        self._failure = failure
        self._ended = True
        self._report_end(self)
        if file is not None:
            file.drop()
        self._signal.wake()

    async def _removed(self) -> bool:
        """Unlink what was written; where that fails, its room stays taken."""
        path = self._space.layout.incoming_of(self._key)
        try:
            await self._space.disk.run(remove, path)
        except OSError as error:
            self._space.trouble(f"cannot remove {path}: {error}", self.digest)
            return False
        return True

    def _tell(self, kind: Kind, detail: str = "") -> None:
        self._space.events.emit(
            Event(kind, reference=self.digest, size=self._total or self.position, detail=detail)
        )


def _verify(digest: Digest, hasher: _Hash) -> None:
    actual = Digest.of_hash(hasher)
    if actual != digest:
        raise Corrupt(f"the bytes that came as {digest} hash to {actual}")
