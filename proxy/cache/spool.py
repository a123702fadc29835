"""The bytes of an upload on their way up: appended, hashed, read back, and in the end published."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from proxy.cache.disk import SharedFile, to_the_end
from proxy.cache.errors import CacheError, DiskFailed, NoSpace, WrongDigest
from proxy.cache.files import append, disk_bytes, hash_range, remove
from proxy.cache.layout import blob_key, upload_key
from proxy.cache.policy import Entry
from proxy.cache.room import Room
from proxy.cache.space import Space
from proxy.events import Event, Kind
from proxy.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

_HASH_BYTES: Final = 8 * 1024 * 1024  # hashed at a time, so that it can be broken off


class Spool:
    """A file that grows at its end. `size` is how many bytes are in it.

    It outlives the process: what was closed, or left by a crash, is opened again by its name.
    Several who opened the same name share one object, and `close` ends it for the last of them.
    Invariant: the hash stands at `size`; both change under `_lock` only.
    """

    def __init__(
        self,
        space: Space,
        name: str,
        fd: int,
        *,
        hasher: _Hash,
        size: int,
        room: Room,
        ended: Callable[[Spool], None],
    ) -> None:
        self.name = name
        self.size = size
        self._space = space
        self._path = space.layout.path_of(upload_key(name))
        self._hasher = hasher
        self._room = room
        self._report_end = ended
        self._file = SharedFile(space.disk, fd)
        self._users = 0
        self._open = True
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._open

    def join(self) -> None:
        """Count one more who will `close` it."""
        self._users += 1

    async def append(self, chunk: bytes) -> None:
        """Put bytes at the end; when this returns they can be read.

        Raises `NoSpace` when the budget or the disk has no room; what is there already stays
        readable. A caller that is cancelled finds the chunk in it whole or not at all.
        """
        async with self._lock:
            self._check_open()
            await self._room.grow(self.size + len(chunk))
            try:
                await self._space.disk.run(self._append, chunk)
            except OSError as error:
                self._space.trouble(f"the disk refused bytes of an upload: {error}", cause=error)
                raise NoSpace(f"the disk refused bytes of an upload: {error}") from error
            self._room.wrote(len(chunk))

    def _append(self, chunk: bytes) -> None:
        # In a thread, so that a cancellation cannot come between the bytes and their count.
        try:
            append(self._file.fd, chunk, self.size, self._hasher)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file.fd, self.size)  # a part of them may be there
            raise
        self.size += len(chunk)

    async def digest(self, algorithm: str) -> Digest:
        """The digest of all bytes so far; raises `CacheError` when they must be read and cannot."""
        async with self._lock:
            return await self._digest(algorithm)

    async def _digest(self, algorithm: str) -> Digest:
        self._check_open()
        if algorithm == self._hasher.name:
            return Digest.of_hash(self._hasher)
        hasher = hashlib.new(algorithm)
        await rehash(self._space, self._file.fd, self.size, hasher)
        return Digest.of_hash(hasher)

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `end` (exclusive), which are there; as often as need be.

        Raises `CacheError` when the disk does not give them.
        """
        self._check_open()
        async with aclosing(self._file.pieces(start, end)) as pieces:
            async for piece in pieces:
                yield piece

    async def publish(self, digest: Digest) -> bool:
        """Make a blob of it, which ends it; false when the blob is there already.

        Raises `WrongDigest` when it is another one's bytes, and `DiskFailed` when the disk refuses
        it: then it goes on as it was.
        """
        stored = False

        def arrived(new: bool) -> None:
            nonlocal stored
            stored = new
            self._end()
            if new:
                self._space.events.emit(Event(Kind.STORED, reference=digest, size=self.size))

        # One turn for both: what came between them would be in the blob, and not in its digest.
        async with self._lock:
            actual = await self._digest(digest.algorithm)
            if actual != digest:
                raise WrongDigest(f"the bytes of an upload hash to {actual}, not {digest}")
            key = blob_key(digest)
            try:
                await self._space.move_in(key, self._file, self._path, self._room, arrived=arrived)
            except DiskFailed as error:
                self._space.trouble(str(error), digest, cause=error)
                raise
        return stored

    async def discard(self) -> None:
        """Remove the bytes. Nothing happens when it has ended already."""
        await to_the_end(self._discard_locked())

    async def _discard_locked(self) -> None:
        async with self._lock:
            if self._open:
                await self._discard()

    async def _discard(self) -> None:
        try:
            await self._space.disk.run(remove, self._path)
        except OSError as error:
            # Its room stays taken, since its bytes do.
            self._space.trouble(f"cannot remove an upload: {error}")
        else:
            # Readers may be at it still: its blocks are in use until they have left.
            self._file.afterwards(self._room.release)
        self._end()

    async def close(self) -> None:
        """Leave the bytes on disk for `open_spool`; they may be evicted in the meantime."""
        self._users -= 1
        if self._users <= 0:
            await self.abandon()

    async def abandon(self) -> None:
        """`close`, whoever else uses it."""
        await to_the_end(self._abandon())

    async def _abandon(self) -> None:
        async with self._lock:
            if self._open:
                status = await self._space.disk.run(os.fstat, self._file.fd)
                self._room.release()
                self._space.add(upload_key(self.name), Entry(self.size, disk_bytes(status)))
                self._end()

    def _end(self) -> None:
        self._open = False
        self._report_end(self)
        self._file.drop()

    def _check_open(self) -> None:
        if not self._open:
            raise CacheError("the upload's bytes are gone: it was published, discarded or closed")


async def rehash(space: Space, fd: int, size: int, hasher: _Hash) -> None:
    """Hash the first `size` bytes of a file; raises `DiskFailed` when they are not to be had."""
    for start in range(0, size, _HASH_BYTES):
        end = min(start + _HASH_BYTES, size)
        try:
            count = await space.disk.run(hash_range, fd, start, end, hasher)
        except OSError as error:
            raise DiskFailed(f"the disk refused a read: {error}") from error
        if count != end - start:
            raise DiskFailed(f"a file ends at byte {start + count}, before {size}")
