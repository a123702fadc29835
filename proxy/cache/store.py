"""The blob store: finds what is on disk, fills what is not, and owns every task of the cache."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.cache.budget import Budget
from proxy.cache.disk import Disk, SharedFile
from proxy.cache.errors import CacheError, DiskFailed, NoSpace
from proxy.cache.files import create, discard, free_bytes, open_read, open_write, whole_bytes
from proxy.cache.fill import Fill
from proxy.cache.inspection import Audit, Checked, audit, verify
from proxy.cache.layout import (
    Layout,
    Lock,
    blob_key,
    digest_of,
    is_blob,
    is_partial,
    is_quarantined,
    upload_key,
)
from proxy.cache.loading import Others, load, write_checkpoint
from proxy.cache.policy import AgedLfu
from proxy.cache.room import Room
from proxy.cache.secret import ensure_secret
from proxy.cache.sources import PATIENCE, Patience, Source
from proxy.cache.space import Space
from proxy.cache.spool import Spool, rehash
from proxy.cache.values import Pin, PinnedBlob, StoredBlob, Usage
from proxy.events import Events
from proxy.oci import Digest
from proxy.singleflight import SingleFlight
from proxy.sizes import Share

if TYPE_CHECKING:
    from hashlib import _Hash

# How long an opening waits for the directory to be read, in seconds.
_LOAD_SECONDS: Final = 0.1
# How long a disk that refuses a write is left alone, at first.
_PAUSE: Final = 5.0


class BlobStore:
    """The blobs, fills and uploads of one cache directory, of which this process is the owner.

    Invariant: `_fills` holds the fills that run, one per digest; `_spools` the uploads that are
    open, one per name.
    """

    def __init__(self, space: Space, lock: Lock, *, abandon_below: int, patience: Patience) -> None:
        self.space = space  # for the parts of the cache that share the budget
        self._lock = lock
        self._abandon_below = abandon_below
        self._patience = patience
        self._others = Others()
        self._fills: dict[Digest, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of fills, those given up as well
        self._spools: dict[str, Spool] = {}
        self._openings: SingleFlight[str, Spool | None] = SingleFlight()
        self._loading = asyncio.create_task(load(space, self._others))

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        budget: int,
        events: Events,
        floor: Share | None = None,
        abandon_below: int = 0,
        pause: float = _PAUSE,
        patience: Patience = PATIENCE,
        first: Callable[[Space], Awaitable[None]] | None = None,
    ) -> BlobStore:
        """Own a directory, made where there is none. What is in it is counted before or after this
        returns: `settled` waits for that.

        `budget` is in bytes on disk, `floor` what stays free of the file system; fills that nobody
        wants any more are given up below `abandon_below` bytes; a disk that refuses a write is left
        alone for `pause` seconds at first; a source that breaks off is asked again with `patience`;
        `first` may keep files from eviction, before any is evicted.
        Raises `CacheError` naming the directory when it cannot be used, or is in use.
        """
        layout = Layout(directory)
        disk = Disk()
        lock: Lock | None = None
        store: BlobStore | None = None
        try:
            await disk.run(layout.create)
            lock = Lock.take(layout)
            await disk.run(ensure_secret, layout)
            try:
                free = 0 if floor is None else floor.of(await disk.run(whole_bytes, layout.root))
            except OSError as error:
                raise CacheError(
                    f"the file system of {layout.root} cannot be used: {error}"
                ) from error
            space = Space(layout, disk, Budget(budget, AgedLfu(), floor=free), events, pause=pause)
            if first is not None:
                await first(space)
            store = cls(space, lock, abandon_below=abandon_below, patience=patience)
            # A small directory is read in no time, and then nothing begins without it.
            await asyncio.wait([store._loading], timeout=_LOAD_SECONDS)
            if store._loading.done():
                store._loading.result()
            else:
                store._loading.add_done_callback(store._loaded)
        except BaseException:
            if store is not None:
                store._loading.cancel()
                await asyncio.wait([store._loading])
            await disk.close()
            if lock is not None:
                lock.release()
            raise
        return store

    def _loaded(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.space.trouble(f"nothing is stored: {error}")
            self.space.give_up(str(error))

    async def close(self) -> None:
        """Stop the fills, leave on disk what there is of them and of open uploads, and write down
        what is there.
        """
        self._loading.cancel()
        await asyncio.wait([self._loading])
        fills = list(self._fills.values())
        await asyncio.gather(*(fill.close() for fill in fills))
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._openings.close()
        for spool in list(self._spools.values()):
            await spool.abandon()
        await self.space.close()
        if not self.space.is_loading:
            await write_checkpoint(self.space, self._others)
        await self.space.disk.close()
        self._lock.release()

    async def settled(self) -> None:
        """Wait until all that was on disk is counted; raises `CacheError` where it cannot be."""
        await self.space.settled()

    async def tend(self) -> None:
        """Housekeeping, to be called every few seconds."""
        await self.space.tend()

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

    def keep(self, digest: Digest) -> Pin:
        """Keep a blob that is on disk, or is about to be, from eviction; this is no use of it."""
        return Pin(self.space, blob_key(digest))

    async def read(self, digest: Digest, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `end` (exclusive) of a blob that the caller keeps.

        Raises `CacheError` when the disk does not give them.
        """
        disk, path = self.space.disk, self.space.layout.path_of(blob_key(digest))
        try:
            file = SharedFile(disk, await disk.open(open_read, path))
        except OSError as error:
            raise DiskFailed(f"{digest} cannot be opened: {error}") from error
        try:
            async with aclosing(file.pieces(start, end)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            file.drop()

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
            fill.join()
            return fill
        entry = self.space.find(blob_key(digest))
        if entry is not None:
            self.space.use(blob_key(digest))
            return Fill.of_stored(self.space, digest, source, entry.size)
        fill = Fill(
            self.space,
            digest,
            source,
            size=size,
            ended=self._fill_ended,
            abandon_below=self._abandon_below,
            patience=self._patience,
        )
        self._fills[digest] = fill
        task = fill.start()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
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
            self.space.trouble(f"cannot begin an upload on disk: {error}", cause=error)
            raise NoSpace(f"cannot create {path}: {error}") from error
        except asyncio.CancelledError:
            # Nobody will ever ask for it.
            await self.space.disk.run(discard, path)
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
        try:
            await space.settled()  # until then nobody knows whether there is anything of it
        except NoSpace:
            return None
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
        room = space.reserved_for(entry)
        space.vacate(key)
        return self._register(name, fd, hasher, size=size, room=room)

    def _register(self, name: str, fd: int, hasher: _Hash, *, size: int, room: Room) -> Spool:
        spool = Spool(
            self.space, name, fd, hasher=hasher, size=size, room=room, ended=self._spool_ended
        )
        self._spools[name] = spool
        return spool

    def _spool_ended(self, spool: Spool) -> None:
        del self._spools[spool.name]

    # What it holds

    def blobs(self) -> Iterator[StoredBlob]:
        """All blobs that are counted when it begins, the next one to be evicted first.

        Those that go before they are come to are left out.
        """
        for key in self.space.budget.snapshot():
            entry = self.space.budget.find(key) if is_blob(key) else None
            if entry is not None:
                yield StoredBlob(digest_of(key), entry.size, entry.disk)

    async def usage(self) -> Usage:
        """What there is, and what it takes."""
        space = self.space
        leftovers = [key for key, _ in space.budget.leftovers()]
        try:
            free = await space.disk.run(free_bytes, space.layout.root)
        except OSError as error:
            raise CacheError(
                f"the file system of {space.layout.root} cannot be used: {error}"
            ) from error
        return Usage(
            limit=space.budget.limit,
            used=space.budget.used,
            reserved=space.budget.reserved,
            floor=space.budget.floor,
            free=free or 0,
            blobs=space.blob_count,
            blob_bytes=space.blob_bytes,
            quarantined=sum(map(is_quarantined, leftovers)),
            partial=sum(map(is_partial, leftovers)),
            unknown=self._others.unknown,
            scanning=space.is_loading,
            degraded=space.health.is_degraded,
        )

    async def shrink(self, size: int) -> int:
        """Evict until at most `size` bytes are used, as far as nothing is in use; gives how many
        bytes went.
        """
        await self.settled()
        return await self.space.shrink(size)

    def verify(self, *, rate: int = 0) -> AsyncGenerator[Checked, None]:
        """Hash all blobs again, at most `rate` bytes a second (0: as fast as it goes)."""
        return verify(self.space, rate=rate)

    async def audit(self) -> Audit:
        """Compare what is counted with what is on disk, and count what is there."""
        return await audit(self.space, self._others)

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
        """How many files and folders are not ours, as far as they have been seen."""
        return self._others.unknown

    @property
    def is_degraded(self) -> bool:
        """Whether the disk refuses writes, so that nothing is stored."""
        return self.space.health.is_degraded

    @property
    def is_loading(self) -> bool:
        """Whether what was on disk is not all counted yet, so that nothing is stored."""
        return self.space.is_loading
