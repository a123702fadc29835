"""What readers get of a fill: from its growing file, from disk afterwards, else from the source.

Readers come and go at their own speed and change nothing; none of them holds another one up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from proxy.cache.disk import SharedFile, Signal
from proxy.cache.errors import Corrupt, DiskFailed, FillFailed
from proxy.cache.files import READ_BYTES, open_read
from proxy.cache.layout import blob_key
from proxy.cache.sources import Patience, Source, Tap
from proxy.cache.space import Space
from proxy.events import Event, Kind
from proxy.oci import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

# A reader that begins further ahead than this of what has come goes to the source by itself.
FAR_AHEAD: Final = 16 * 1024 * 1024
# What is withheld until the digest is verified: enough that nobody takes a compressed stream, whose
# last bytes are its checksum, for a whole one.
TAIL: Final = 16 * 1024


@dataclass(slots=True, eq=False)
class Progress:
    """How far a blob has come: changed by its fill alone, watched by the readers.

    `position` is how many of its bytes are on disk; while the fill runs it only grows. It ends in
    one of three ways: stored, failed (`failure` is set, and every reader raises it), or unstored:
    there is no room or the disk refuses, and readers go on from the source, each at its own offset.
    """

    digest: Digest
    total: int | None
    position: int = 0
    latest: bytes = b""  # the bytes just before `position`, for readers who keep up
    opened: bool = False
    verified: bool = False
    stored: bool = False
    ended: bool = False
    failure: Exception | None = None
    file: SharedFile | None = None
    hasher: _Hash = field(init=False)
    hashed: Callable[[], int] = field(default=lambda: 0)  # where the hasher stands
    signal: Signal = field(default_factory=Signal)

    def __post_init__(self) -> None:
        self.hasher = self.digest.hasher()

    @property
    def is_measured(self) -> bool:
        """Whether what is known of the size may be told: of an empty blob it is all there is."""
        return self.verified or (self.opened and self.total != 0)

    def reaches_end(self, stop: int | None) -> bool:
        """Whether a range up to `stop` (None: no end) has the blob's last byte in it."""
        return stop is None or stop >= (self.position if self.total is None else self.total)

    def limit(self, stop: int | None) -> int:
        """The offset up to which a reader may read now."""
        # Where it has ended unstored, the rest comes from the source and is withheld there.
        if self.verified or self.ended or not self.reaches_end(stop):
            return self.position if stop is None else min(stop, self.position)
        whole = self.position if self.total is None else self.total
        return max(0, min(self.position, whole - TAIL))

    def is_complete(self, at: int, stop: int | None) -> bool:
        """Whether a reader who stands at `at` has all of its range, and may be told so."""
        if self.verified:
            return at >= (self.position if stop is None else min(stop, self.position))
        return stop is not None and at >= stop and not self.reaches_end(stop)

    def hash_at(self, at: int) -> _Hash | None:
        """A hash that stands at an offset, where there is one that nobody else uses."""
        if at == 0:
            return self.digest.hasher()
        if at == self.position == self.hashed() and self.ended:
            return self.hasher.copy()
        return None


class Reader(AsyncGenerator[bytes, None]):
    """The pieces of one range. Closing it, begun or not, says that its reader has left."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], left: Callable[[], None]) -> None:
        self._pieces = pieces
        self._left: Callable[[], None] | None = left

    async def asend(self, value: None) -> bytes:
        try:
            return await self._pieces.asend(value)
        except BaseException:
            self._leave()
            raise

    async def athrow(
        self,
        kind: type[BaseException] | BaseException,
        value: Any = None,
        trace: TracebackType | None = None,
    ) -> bytes:
        try:
            return await self._pieces.athrow(kind)
        finally:
            self._leave()

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._left is not None:
            left, self._left = self._left, None
            left()


async def total_of(progress: Progress) -> int | None:
    """The blob's size in bytes, None while nobody knows it; waits for the source's answer.

    Raises what the source raises when it is first opened, unchanged; and `Corrupt` for a blob that
    has come as no bytes at all, of which none could be withheld.
    """
    while not progress.is_measured and not progress.ended:
        await progress.signal.wait()
    if not progress.is_measured and progress.failure is not None:
        raise progress.failure
    return progress.position if progress.verified else progress.total


async def read(
    space: Space,
    source: Source,
    progress: Progress,
    start: int,
    end: int | None,
    *,
    patience: Patience,
) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` up to `end` (exclusive, None: the end of the blob), as they come.

    The last bytes of the blob are withheld until its digest is verified. A range that ends before
    them is not protected like that, nor is one that goes to the source by itself from the middle
    of the blob. Raises `FillFailed` naming the digest, or what the source raises when it is opened.
    """
    total = await total_of(progress)
    stop = end if total is None else min(total, total if end is None else end)
    at = start if stop is None else min(start, stop)
    if progress.verified or at - progress.position <= FAR_AHEAD:
        async with aclosing(_follow(space, progress, at, stop)) as pieces:
            async for piece in pieces:
                at += len(piece)
                yield piece
        if progress.is_complete(at, stop):
            return
    # Whoever wants all to the end need not name it; what a range leaves out is not to be sent.
    last = None if end is None else stop
    tap = Tap(source, progress.digest, at, end=last, expected=total, patience=patience)
    async with aclosing(_straight(space, tap, progress, stop)) as pieces:
        async for piece in pieces:
            yield piece


async def _follow(
    space: Space, progress: Progress, at: int, stop: int | None
) -> AsyncGenerator[bytes, None]:
    """What the file has and gets of a range; ends early where the reader must go elsewhere."""
    file = await _hold_file(space, progress)
    if file is None:
        return
    try:
        while not progress.is_complete(at, stop):
            if progress.failure is not None:
                raise progress.failure
            limit = progress.limit(stop)
            if at < limit:
                piece = _recall(progress, at, limit) or await file.read(at, limit)
                at += len(piece)
                yield piece
            elif progress.ended:
                return
            else:
                await progress.signal.wait()
    except DiskFailed as error:
        space.trouble(f"cannot read {progress.digest}: {error}", progress.digest)
    finally:
        file.drop()


def _recall(progress: Progress, at: int, limit: int) -> bytes:
    """What memory has from `at` on, as much as one read is for; empty where only disk has it.

    A reader who keeps up gets what was written last without a trip to a thread.
    """
    begin = at - (progress.position - len(progress.latest))
    if begin < 0:
        return b""
    return progress.latest[begin : begin + min(limit - at, READ_BYTES)]


async def _hold_file(space: Space, progress: Progress) -> SharedFile | None:
    """The file to read from, held for the caller; None when there is none (any more)."""
    while progress.file is None and not progress.ended:
        await progress.signal.wait()
    if progress.file is not None:
        progress.file.hold()
        return progress.file
    if progress.failure is not None:
        raise progress.failure
    key = blob_key(progress.digest)
    if space.find(key) is None or not progress.stored:
        return None
    space.pin(key)
    try:
        fd = await space.disk.open(open_read, space.layout.path_of(key))
    except OSError as error:
        space.unpin(key)
        space.trouble(f"cannot open {progress.digest}: {error}", progress.digest)
        return None
    except BaseException:
        space.unpin(key)
        raise
    file = SharedFile(space.disk, fd)
    file.afterwards(lambda: space.unpin(key))
    return file


async def _straight(
    space: Space, tap: Tap, progress: Progress, stop: int | None
) -> AsyncGenerator[bytes, None]:
    """A range from the source, unstored; verified where all before it was, up to the end."""
    at = tap.position
    hasher = progress.hash_at(at) if progress.reaches_end(stop) else None
    digest = progress.digest
    kept = b""
    async with tap:
        if progress.total not in (None, tap.total):
            raise FillFailed(f"{digest}: its size was {progress.total} and is {tap.total}")
        async with aclosing(tap.chunks()) as chunks:
            async for chunk in chunks:
                if hasher is None:
                    piece = chunk
                else:
                    await space.disk.run(hasher.update, chunk)
                    whole = tap.position if tap.total is None else tap.total
                    kept += chunk
                    free = max(0, whole - TAIL - at)
                    piece, kept = kept[:free], kept[free:]
                if piece:
                    at += len(piece)
                    yield piece
    if hasher is not None:
        try:
            verify(digest, hasher)
        except Corrupt as error:
            tell(space, progress, Kind.CORRUPT, str(error))
            raise
        if kept:
            yield kept


def verify(digest: Digest, hasher: _Hash) -> None:
    actual = Digest.of_hash(hasher)
    if actual != digest:
        raise Corrupt(f"the bytes that came as {digest} hash to {actual}")


def tell(space: Space, progress: Progress, kind: Kind, detail: str = "") -> None:
    size = progress.total or progress.position
    space.events.emit(Event(kind, reference=progress.digest, size=size, detail=detail))
