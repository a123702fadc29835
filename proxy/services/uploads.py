"""Pushed blobs: received from the client, sent upstream in parts, kept in the cache.

Whatever pieces a client sends, upstream gets parts that every registry takes (ECR wants each part
but the last to be 5 MiB or more), at offsets that are counted here. What the client has sent lies
on disk until it is committed, so a part can be sent again, to a new upload if need be.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from proxy.cache import BlobStore, CacheError, NoSpace, Spool
from proxy.errors import (
    BadGateway,
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    RegistryError,
)
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, RepositoryName
from proxy.services.existence import Existence
from proxy.services.registries import Target
from proxy.services.tokens import UploadTokens
from proxy.services.window import Window
from proxy.upstream import Upload

_log = logging.getLogger(__name__)

_ALGORITHM: Final = "sha256"
# How far a client may be ahead of upstream within one blob. Its last bytes are taken only when so
# little is owed that the reply is not late: clients give up after 30 s (BUILDKIT.md).
_PARTS_AHEAD: Final = 2
_ATTEMPTS: Final = 3
_IDLE_SECONDS: Final = 3600.0


@dataclass(slots=True)
class _Session:
    """One upload of a client.

    Invariant: `sent` bytes of the first `received` are in `upload`; `upload` is None when nothing
    of it is upstream (`sent` is 0 then). `lock` is held by whoever changes any of it.
    """

    name: str
    target: Target
    received: Spool | Window
    upload: Upload | None
    sent: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    last_used: float = field(default_factory=time.monotonic)


class Uploads:
    """Begins, continues, commits and cancels the uploads of clients."""

    def __init__(
        self, store: BlobStore, tokens: UploadTokens, existence: Existence, events: Events
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._existence = existence
        self._events = events
        self._sessions: dict[str, _Session] = {}

    async def close(self) -> None:
        """Forget what is open; what lies on disk is found again by its location's token."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            if isinstance(session.received, Spool):
                await session.received.close()

    async def start(self, target: Target) -> str:
        """Begin an upload and give the token that its location carries; raises upstream's words."""
        upload = await target.registry.start_upload(target.repository)
        if upload is None:
            raise BadGateway("upstream answered a plain upload as if it were a mount")
        return await self._register(target, upload)

    async def mount(
        self, target: Target, digest: Digest, source: RepositoryName | None
    ) -> str | None:
        """Mount a blob from another repository; the token of an upload where it cannot be."""
        upload = await target.registry.start_upload(target.repository, mount=digest, source=source)
        if upload is None:
            self._existence.add(target, digest)
            return None
        return await self._register(target, upload)

    async def append(
        self, target: Target, token: str, body: AsyncIterator[bytes], *, offset: int | None
    ) -> int:
        """Take more of a blob, beginning at `offset` if the client says where it stands.

        Gives the bytes received in all. Raises `RangeInvalid` for another offset than that, and
        upstream's words for a part that it refuses.
        """
        async with self._use(target, token) as session:
            self._check_offset(session, offset)
            await self._receive(session, body)
            return session.received.size

    async def finish(
        self,
        target: Target,
        token: str,
        digest: Digest,
        body: AsyncIterator[bytes],
        *,
        offset: int | None,
    ) -> None:
        """Take what is left, and commit the blob upstream and to the cache.

        Raises `DigestInvalid` when the bytes hash to something else, and upstream's words.
        """
        async with self._use(target, token) as session:
            self._check_offset(session, offset)
            await self._receive(session, body)
            try:
                await self._verify(session, digest)
            except DigestInvalid:
                await self._drop(session)
                raise
            await self._commit(session, digest)
            size = session.received.size
            if isinstance(session.received, Spool):
                try:
                    await session.received.publish(digest)
                except CacheError as error:
                    # Upstream has it, which is what the client wants to hear.
                    _log.warning("%s was pushed, and is not stored here: %s", digest, error)
                    await session.received.discard()
            self._sessions.pop(session.name, None)
        self._existence.add(target, digest, size)
        registry, repository = target.key
        self._events.emit(Event(Kind.PUSHED_BLOB, registry, repository, digest, size))

    async def status(self, target: Target, token: str) -> int:
        """The bytes received so far; raises `BlobUploadUnknown`."""
        return (await self._find(target, token)).received.size

    async def cancel(self, target: Target, token: str) -> None:
        async with self._use(target, token) as session:
            await self._drop(session)

    async def expire(self) -> None:
        """Drop uploads that no client has touched for an hour."""
        now = time.monotonic()
        for session in list(self._sessions.values()):
            if now - session.last_used > _IDLE_SECONDS and not session.lock.locked():
                async with session.lock:
                    await self._drop(session)

    # Sessions

    async def _register(self, target: Target, upload: Upload) -> str:
        name = secrets.token_hex(16)
        received: Spool | Window
        try:
            received = await self._store.create_spool(name, _ALGORITHM)
        except NoSpace:
            received = Window()
        self._sessions[name] = _Session(name, target, received, upload)
        return self._tokens.issue(name, target)

    @asynccontextmanager
    async def _use(self, target: Target, token: str) -> AsyncIterator[_Session]:
        session = await self._find(target, token)
        async with session.lock:
            if self._sessions.get(session.name) is not session:
                raise _unknown(target)  # finished or cancelled while this request waited
            try:
                yield session
            finally:
                session.last_used = time.monotonic()  # a body may have taken longer than an hour

    async def _find(self, target: Target, token: str) -> _Session:
        name = self._tokens.read(token, target)
        session = self._sessions.get(name)
        if session is None:
            session = await self._restore(name, target)
        session.last_used = time.monotonic()
        return session

    async def _restore(self, name: str, target: Target) -> _Session:
        """After a restart: the bytes are on disk, and go upstream in a new upload."""
        spool = await self._store.open_spool(name, _ALGORITHM)
        if spool is None:
            raise _unknown(target)
        # Another request may have restored it while this one was reading the disk.
        session = self._sessions.get(name)
        if session is not None:
            await spool.close()
            return session
        session = self._sessions[name] = _Session(name, target, spool, upload=None)
        return session

    async def _drop(self, session: _Session) -> None:
        # In this order: while the bytes are on disk, whoever misses the session would restore it.
        if isinstance(session.received, Spool):
            await session.received.discard()
        self._sessions.pop(session.name, None)
        if session.upload is not None:
            try:
                await session.target.registry.cancel_upload(session.upload)
            except RegistryError as error:
                # Whether ECR lets an upload be cancelled is unknown (ECR.md, last section); it
                # forgets it by itself.
                _log.debug("upstream did not cancel an upload: %s", error.message)

    def _check_offset(self, session: _Session, offset: int | None) -> None:
        size = session.received.size
        if offset is not None and offset != size:
            raise RangeInvalid(
                f"this chunk begins at byte {offset}, but the upload to "
                f"{session.target.repository} stands at {size}",
                headers={"Range": f"0-{max(0, size - 1)}"},
            )

    # Receiving

    async def _receive(self, session: _Session, body: AsyncIterator[bytes]) -> None:
        """Take a body and send full parts upstream meanwhile, never running far ahead of it."""
        part = _part_size(session)
        sender: asyncio.Task[None] | None = None
        try:
            async for chunk in body:
                try:
                    await session.received.append(chunk)
                except NoSpace:
                    if sender is not None:
                        waiting, sender = sender, None
                        await waiting
                    await self._leave_disk(session, part)
                    await session.received.append(chunk)
                owed = session.received.size - session.sent
                ahead = 1 if isinstance(session.received, Window) else _PARTS_AHEAD
                if sender is not None and (sender.done() or owed >= part * ahead):
                    await sender
                    sender = None
                    owed = session.received.size - session.sent
                if sender is None and owed >= part:
                    end = session.sent + owed // part * part
                    sender = asyncio.create_task(self._send_part(session, end))
                    if ahead == 1:
                        await sender
                        sender = None
            if sender is not None:
                waiting, sender = sender, None
                await waiting
        finally:
            if sender is not None:
                # The client is gone: the part that is on its way is let through, so that the
                # session knows where upstream stands when the client comes back.
                await asyncio.gather(sender, return_exceptions=True)

    async def _leave_disk(self, session: _Session, part: int) -> None:
        """The budget is spent: what upstream has not got goes on through memory, unstored."""
        spool = session.received
        if not isinstance(spool, Spool):
            return
        # All of it may be owed, after a restart or a failure: memory takes less than a part.
        if spool.size - session.sent >= part:
            await self._send_part(session, spool.size - (spool.size - session.sent) % part)
        window = Window(start=session.sent)
        async for piece in spool.read(session.sent, spool.size):
            await window.append(piece)
        session.received = window
        await spool.discard()

    async def _verify(self, session: _Session, digest: Digest) -> None:
        """A wrong digest is found here where the bytes are on disk, else by upstream."""
        if isinstance(session.received, Spool):
            try:
                actual = await session.received.digest(digest.algorithm)
            except CacheError:
                return  # the disk refuses a read: if it refuses the next one, sending says so
            if actual != digest:
                raise DigestInvalid(
                    f"the blob pushed to {session.target.repository} as {digest} hashes to {actual}"
                )

    # Sending

    async def _persist(self, session: _Session, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try again from the start, in a new upload, what failed for no reason of the client's."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                await attempt()
            except RegistryError as error:
                # What upstream has of this upload is not known any more.
                session.upload, session.sent = None, 0
                if isinstance(session.received, Window):
                    # Nor is it here: the client has to begin anew, and hears so from now on.
                    self._sessions.pop(session.name, None)
                    raise
                if left == 0 or not _passing(error):
                    raise
                registry, repository = session.target.key
                detail = f"upload begun anew: {error.message}"
                self._events.emit(Event(Kind.TROUBLE, registry, repository, detail=detail))
            else:
                return

    async def _send_part(self, session: _Session, end: int) -> None:
        await self._persist(session, lambda: self._try_part(session, end))

    async def _try_part(self, session: _Session, end: int) -> None:
        upload = await self._opened(session)
        start = session.sent
        session.upload = await session.target.registry.send_chunk(
            upload,
            offset=start,
            length=end - start,
            body=lambda: session.received.read(start, end),
        )
        session.sent = end
        if isinstance(session.received, Window):
            session.received.release(end)

    async def _commit(self, session: _Session, digest: Digest) -> None:
        await self._persist(session, lambda: self._try_commit(session, digest))

    async def _try_commit(self, session: _Session, digest: Digest) -> None:
        part, size = _part_size(session), session.received.size
        if size - session.sent > part:
            # After a new start: everything but the last part goes ahead of the commit.
            await self._try_part(session, session.sent + (size - session.sent - 1) // part * part)
        upload = await self._opened(session)
        start = session.sent
        await session.target.registry.finish_upload(
            upload,
            digest,
            offset=start,
            length=size - start,
            body=(lambda: session.received.read(start, size)) if size > start else None,
        )

    async def _opened(self, session: _Session) -> Upload:
        if session.upload is None:
            session.upload = await session.target.registry.start_upload(session.target.repository)
            session.sent = 0
        if session.upload is None:
            raise BadGateway("upstream answered a plain upload as if it were a mount")
        return session.upload


def _part_size(session: _Session) -> int:
    wanted = session.upload.min_part if session.upload is not None else 0
    return max(session.target.registry.part_size, wanted)


def _passing(error: RegistryError) -> bool:
    """Whether a new upload may succeed where this one failed.

    Besides upstream's trouble: an upload that it has lost, and an offset that it does not share
    (a stream that was dropped cannot be continued within the same upload, ECR.md §4).
    """
    return (
        error.wire_status >= 500
        or error.wire_status in (416, 429)
        or error.wire_code == "BLOB_UPLOAD_UNKNOWN"
    )


def _unknown(target: Target) -> BlobUploadUnknown:
    return BlobUploadUnknown(
        f"no such upload in {target.repository}: it was finished, cancelled or has expired; "
        "begin a new one"
    )
