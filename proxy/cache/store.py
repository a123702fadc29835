"""The blob store: finds what is on disk, fills what is not, and owns every task of the cache."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from proxy.cache.budget import Budget
from proxy.cache.disk import Disk
from proxy.cache.errors import DiskFailed, NoSpace
from proxy.cache.files import create, open_write, remove
from proxy.cache.fill import Fill
from proxy.cache.layout import Layout, Lock, blob_key, upload_key
from proxy.cache.policy import Lru
from proxy.cache.scan import Found, scan
from proxy.cache.sources import Source
from proxy.cache.space import Room, Space
from proxy.cache.spool import Spool, rehash
from proxy.events import Events
from proxy.oci import Digest
from proxy.singleflight import SingleFlight

if TYPE_CHECKING:
    from hashlib import _Hash

_log = logging.getLogger(__name__)


class PinnedBlob:
    """A blob that stays on disk until `release`, or the end of the `with` block.

    `path` is a file of `size` bytes that does not change. It may be opened late.
    """

    __slots__ = ("_key", "_space", "path", "size")

    def __init__(self, space: Space, key: bytes, size: int) -> None:
        self.path = Path(space.layout.path_of(key))
        self.size = size
        self._key = key
        self._space: Space | None = space
        space.pin(key)

    def release(self) -> None:
        """Let it be evicted again; more than once does no harm."""
        if self._space is not None:
            space, self._space = self._space, None
            space.unpin(self._key)

    def __enter__(self) -> PinnedBlob:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class BlobStore:
    """The blobs, fills and uploads of one cache directory, of which this process is the owner.

    Invariant: `_fills` holds the fills that run, one per digest; `_spools` the uploads that are
    open, one per name.
    """

    def __init__(self, space: Space, lock: Lock, found: Found) -> None:
        self.space = space  # for the parts of the cache that share the budget
        self._lock = lock
        self._unknown = len(found.unknown)
        self._fills: dict[Digest, Fill] = {}
        self._spools: dict[str, Spool] = {}
        self._openings: SingleFlight[str, Spool | None] = SingleFlight()

    @classmethod
    async def open(cls, directory: Path, *, budget: int, events: Events) -> BlobStore:
        """Take a directory, made if need be, and see what is in it.

        `budget` is in bytes as the file system counts them. What is more is evicted. Raises
        `CacheError` with a sentence that names the directory when it cannot be used, or is in use.
        """
        layout = Layout(directory)
        disk = Disk()
        lock: Lock | None = None
        try:
            await disk.run(layout.create)
            lock = Lock.take(layout)
            found = await disk.run(scan, layout)
            space = Space(layout, disk, Budget(budget, Lru()), events)
            await space.load(found)
        except BaseException:
            await disk.close()
            if lock is not None:
                lock.release()
            raise
        if found.unknown:
            _log.warning(
                "%d files in %s are not ours and are left alone, %s among them",
                len(found.unknown),
                layout.root,
                found.unknown[0],
            )
        return cls(space, lock, found)

    async def close(self) -> None:
        """Stop the fills, leave open uploads on disk, write down what was used when."""
        fills = list(self._fills.values())
        await asyncio.gather(*(fill.close() for fill in fills))
        await self._openings.close()
        for spool in list(self._spools.values()):
            await spool.abandon()
        await self.space.close()
        await self.space.disk.close()
        self._lock.release()

    # Blobs

    def find(self, digest: Digest) -> PinnedBlob | None:
        """A blob on disk, pinned for the caller, who must release it; this counts as its use."""
        key = blob_key(digest)
        entry = self.space.find(key)
        if entry is None:
            return None
        self.space.use(key)
        return PinnedBlob(self.space, key, entry.size)

    def contains(self, digest: Digest) -> bool:
        """Whether the blob is on disk; this is no use of it."""
        return self.space.find(blob_key(digest)) is not None

    def is_filling(self, digest: Digest) -> bool:
        """Whether `fill` would join one that runs."""
        return digest in self._fills

    def fill(self, digest: Digest, source: Source, *, size: int | None = None) -> Fill:
        """The running fill of a blob, else a new one from that source.

        `size` is what is known of the blob's size in bytes, for a source that does not say. Whether
        the source is in use shows in `Fill.source`: it is the one that the fill began with.
        """
        # No await between look-up and registration: two callers can never both start.
        fill = self._fills.get(digest)
        if fill is not None:
            return fill
        entry = self.space.find(blob_key(digest))
        if entry is not None:
            self.space.use(blob_key(digest))
            return Fill.of_stored(self.space, digest, source, entry.size)
        fill = Fill(self.space, digest, source, size=size, ended=self._fill_ended)
        self._fills[digest] = fill
        fill.start()
        return fill

    async def remove(self, digest: Digest) -> bool:
        """Take a blob out of sight, off the disk once nobody has it pinned. False: not there."""
        return await self.space.remove(blob_key(digest))

    def _fill_ended(self, fill: Fill) -> None:
        del self._fills[fill.digest]

    # Uploads

    async def create_spool(self, name: str, algorithm: str = "sha256") -> Spool:
        """A place for the bytes of a new upload, hashed by `algorithm` as they come.

        `name` is made of letters, digits, `-` and `_`. Raises `NoSpace` when the budget or the
        disk has no room, `ValueError` for a name that is none.
        """
        path = self.space.layout.path_of(upload_key(name))
        room = await self.space.reserve(0)
        try:
            fd = await self.space.disk.open(create, path)
        except OSError as error:
            room.release()
            self.space.trouble(f"cannot begin an upload on disk: {error}")
            raise NoSpace(f"cannot create {path}: {error}") from error
        except asyncio.CancelledError:
            # Nobody will ever ask for it.
            await self.space.disk.run(_remove_if_possible, path)
            room.release()
            raise
        spool = self._register(name, fd, hashlib.new(algorithm), size=0, room=room)
        spool.join()
        return spool

    async def open_spool(self, name: str, algorithm: str = "sha256") -> Spool | None:
        """What is on disk of an upload, hashed again; None when there is nothing of it."""
        while True:
            spool = self._spools.get(name)
            if spool is None:
                spool = await self._openings.do(name, lambda: self._open_spool(name, algorithm))
            if spool is None:
                return None
            if spool.is_open:
                spool.join()
                return spool

    async def _open_spool(self, name: str, algorithm: str) -> Spool | None:
        space = self.space
        key = upload_key(name)
        entry = space.take(key)
        if entry is None:
            return None
        path = space.layout.path_of(key)
        try:
            fd = await space.disk.open(open_write, path)
            hasher = hashlib.new(algorithm)
            try:
                size = (await space.disk.run(os.fstat, fd)).st_size
                await rehash(space, fd, size, hasher)
            except BaseException:
                space.disk.start(os.close, fd)
                raise
        except (OSError, DiskFailed) as error:
            space.trouble(f"an upload cannot be continued: {error}")
            await space.unlink_taken(key, entry)
            return None
        except asyncio.CancelledError:
            space.put_back(key, entry)
            raise
        return self._register(name, fd, hasher, size=size, room=space.reserved_for(key, entry))

    def _register(self, name: str, fd: int, hasher: _Hash, *, size: int, room: Room) -> Spool:
        spool = Spool(
            self.space, name, fd, hasher=hasher, size=size, room=room, ended=self._spool_ended
        )
        self._spools[name] = spool
        return spool

    def _spool_ended(self, spool: Spool) -> None:
        del self._spools[spool.name]

    # What it holds, in bytes as the file system counts them

    @property
    def budget_bytes(self) -> int:
        return self.space.budget.limit

    @property
    def used_bytes(self) -> int:
        """Everything in the directory that no reservation stands for, files not ours included."""
        return self.space.budget.used

    @property
    def reserved_bytes(self) -> int:
        """For fills and uploads that are on their way."""
        return self.space.budget.reserved

    @property
    def blob_count(self) -> int:
        return self.space.blob_count

    @property
    def unknown_files(self) -> int:
        """How many files the start-up found that are not ours."""
        return self._unknown


def _remove_if_possible(path: str) -> None:
    with suppress(OSError):
        remove(path)
