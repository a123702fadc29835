"""Blobs for readers: from disk where they may have them, else from upstream while they are stored.

Where the bytes lie is the cache's business, how they come is upstream's; here it is decided whom
to ask, and that nobody gets a blob that upstream does not grant under the repository they name.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from proxy.cache import BlobStore, FillFailed, PinnedBlob
from proxy.cache.fill import Fill
from proxy.cache.sources import Tap
from proxy.errors import BadGateway, BlobUnknown, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.services.debts import Debts
from proxy.services.downloads import Downloads
from proxy.services.existence import Existence
from proxy.services.proofs import Proofs
from proxy.services.registries import Target
from proxy.services.vouched import Vouched
from proxy.upstream import BlobStream

# A range that begins further into a blob than this does not wait for a fill from its beginning.
FAR_AHEAD: Final = 16 * 1024 * 1024
# How often it is told that older proofs are trusted.
_TELL_SECONDS: Final = 60.0

Left: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when whoever asks for a blob has gone away. Called for those alone who must wait."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A blob in the cache; the pin is the reader's to release."""

    pin: PinnedBlob


@dataclass(frozen=True, slots=True)
class Streamed:
    """A blob on its way: `total` is its size in bytes, None if upstream does not say.

    `read(start, end)` gives the bytes of that range (end exclusive, None for the end of the blob);
    what it raises means that the rest cannot be had.
    """

    total: int | None
    read: Callable[[int, int | None], AsyncGenerator[bytes, None]]


class _UpstreamBlob:
    """Where bytes come from: one blob under one repository."""

    def __init__(self, target: Target, digest: Digest) -> None:
        self._target = target
        self._digest = digest
        self._has_given = False

    @asynccontextmanager
    async def open(self, start: int, end: int | None = None) -> AsyncIterator[BlobStream]:
        """As the registry's `open_blob`. Who has bytes already cannot be told to come again later:
        to go on with them, trouble is waited out.
        """
        async with self._target.registry.open_blob(
            self._target.repository, self._digest, start=start, end=end, patient=self._has_given
        ) as stream:
            self._has_given = True
            yield stream


class Blobs:
    """Finds, fetches, stats and deletes blobs under a repository."""

    def __init__(
        self,
        store: BlobStore,
        proofs: Proofs,
        existence: Existence,
        debts: Debts,
        vouched: Vouched,
        downloads: Downloads[Fill],
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._store = store
        self._proofs = proofs
        self._existence = existence
        self._debts = debts
        self._vouched = vouched
        self._downloads = downloads
        self._events = events
        self._clock = clock
        self._tell_at: dict[str, float] = {}  # by registry, when older proofs are in use

    async def stat(self, target: Target, digest: Digest) -> int | None:
        """The blob's size in bytes as upstream has it; raises `BlobUnknown`.

        Never answered from disk alone: a client that is told that a blob is there does not upload
        it, and its manifest would be refused.
        """
        owed = self._debts.find(target, digest)
        if owed is not None and self._store.contains(digest):
            return owed.size
        try:
            size = await self._existence.ask(target, digest)
        except RegistryError as error:
            if not (isinstance(error, BlobUnknown) or error.is_trouble):
                self._vouched.drop(target, digest)
            raise
        if size is None:
            pin = self._store.find(digest)
            if pin is not None:
                with pin:
                    size = pin.size
        return size

    async def open(
        self, target: Target, digest: Digest, first: int, *, left: Left
    ) -> OnDisk | Streamed:
        """The blob under that repository; the client wants it from its byte `first` on.

        Raises `BlobUnknown`, or what upstream answers; `Unavailable` where too many downloads run,
        and `ReaderLeft` where the client left while it waited for that.
        """
        pin = self._store.find(digest)
        if pin is not None:
            try:
                size = await self._permit(target, digest)
            except BaseException:
                pin.release()
                raise
            if size in (None, pin.size):
                self._tell(Kind.HIT, target, digest, pin.size)
                return OnDisk(pin)
            # What was found at the start may have been cut before. Nothing is served before this
            # was asked once, or else it was stored since.
            pin.release()
            reason = f"its file has {pin.size} bytes, and upstream says {size}"
            return await self.reopen(target, digest, reason, lost=True, left=left)
        if first > FAR_AHEAD and not self._store.is_filling(digest):
            return await self._far(target, digest)
        return await self._follow(target, digest, left)

    async def delete(self, target: Target, digest: Digest) -> None:
        self._vouched.drop(target, digest)
        self._existence.drop(target, digest)
        if await self._debts.forgive(target, digest):
            return
        try:
            await target.registry.delete_blob(target.repository, digest)
        finally:
            self._existence.drop(target, digest)  # what was heard meanwhile

    async def reopen(
        self, target: Target, digest: Digest, reason: str, *, lost: bool, left: Left
    ) -> Streamed:
        """The blob after all, where what `open` gave from disk cannot be read, for that reason.

        Its pin must be released by then. `lost`: nor can it be later, so it is fetched anew.
        """
        if lost:
            await self.discard(target, digest, reason)
        else:
            self._tell(Kind.TROUBLE, target, digest, 0, reason)
        # Where the file stays, the fill of a stored blob goes past it to upstream.
        return await self._follow(target, digest, left)

    async def discard(self, target: Target, digest: Digest, reason: str) -> None:
        """Take a blob out of the cache whose file is not what was stored."""
        if await self._store.remove(digest):
            self._tell(Kind.CORRUPT, target, digest, 0, reason)

    async def _follow(self, target: Target, digest: Digest, left: Left) -> Streamed:
        while True:
            unasked = self._is_here(digest)
            if unasked:
                # Upstream's answer to the fill may have been to another repository.
                await self._permit(target, digest)
            source = _UpstreamBlob(target, digest)
            fill = await self._begin(target, digest, source, left)
            if fill is None:
                continue
            ours = fill.source is source
            # What was published while permission was asked for, or is about to be, is no download.
            kind = Kind.HIT if fill.is_whole else Kind.MISS if ours else Kind.JOIN
            try:
                total = await fill.total()
            except FillFailed as error:
                raise BadGateway(str(error)) from error
            except RegistryError as error:
                refused = not error.is_trouble
                if ours and refused:
                    self._existence.drop(target, digest)
                if ours or not refused:
                    # Trouble is trouble for all who wait: each trying anew would make them wait
                    # for one another's patience.
                    raise
                # Refused to another repository, which says nothing about this one: begin anew.
                continue
            if not unasked:
                self._existence.add(target, digest, total)
            self._tell(kind, target, digest, total or 0)
            return Streamed(total, fill.reader)

    async def _begin(
        self, target: Target, digest: Digest, source: _UpstreamBlob, left: Left
    ) -> Fill | None:
        """The fill of a blob, a new one as soon as there is a place for it.

        None where the blob came here while this one waited for that: whether it may be read has to
        be asked then.
        """
        if self._is_here(digest):
            return self._store.fill(digest, source)

        def begin() -> Fill | None:
            return None if self._is_here(digest) else self._store.fill(digest, source)

        # By repository: whoever is let in may be refused what others are granted.
        key = (*target.key, digest)
        return await self._downloads.begin(target.client, key, begin, left=left)

    def _is_here(self, digest: Digest) -> bool:
        return self._store.is_filling(digest) or self._store.contains(digest)

    async def _far(self, target: Target, digest: Digest) -> Streamed:
        """Straight from upstream, unstored: the size is asked first, as the reply names it.

        What breaks off is continued where it stood, as a fill is. Unlike a fill it ends with its
        reader, and holds nothing on disk: how many connections a client may have bounds it.
        """
        total = await self._existence.fetch(target, digest, patient=False)
        self._tell(Kind.BYPASS, target, digest, 0)

        async def read(start: int, end: int | None) -> AsyncGenerator[bytes, None]:
            source = _UpstreamBlob(target, digest)
            async with (
                Tap(source, digest, start, end=end, expected=total) as tap,
                aclosing(tap.chunks()) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

        return Streamed(total, read)

    async def _permit(self, target: Target, digest: Digest) -> int | None:
        """Raise unless the repository holds the blob; its size in bytes if that was heard.

        That it holds none is heard from upstream each time: another client may have pushed it, and
        whoever reads it has a manifest that names it. While upstream cannot be asked, an older
        proof will do, or that manifest; never against an answer of its own.
        """
        owed = self._debts.find(target, digest)
        if owed is not None:
            return owed.size
        proof = self._proofs.find(target, digest)
        if proof is not None:
            return proof.size
        if self._vouched.has(target, digest):
            return None
        try:
            # In an outage that fails at once, without asking anybody.
            return await self._existence.fetch(target, digest, patient=False)
        except RegistryError as error:
            had = self._proofs.had(target, digest) or self._vouched.is_lent(target, digest)
            if not error.is_trouble or not had:
                raise
        self._tell_of_stale_proofs(target.registry.name)
        return None

    def _tell_of_stale_proofs(self, registry: str) -> None:
        """Say, once in a while, that readers are let in by what was proved before."""
        now = self._clock()
        if now < self._tell_at.get(registry, now):
            return
        self._tell_at[registry] = now + _TELL_SECONDS
        detail = "it cannot be asked who may read what is on disk; older answers are trusted"
        self._events.emit(Event(Kind.TROUBLE, registry, detail=detail))

    def _tell(
        self, kind: Kind, target: Target, digest: Digest, size: int, detail: str = ""
    ) -> None:
        registry, repository = target.key
        self._events.emit(Event(kind, registry, repository, digest, size, detail))
