"""Pushed blobs: received from the client, kept in the cache, sent upstream at the same time.

What the client has sent lies on disk until upstream has it, so a part can be sent again, to a new
upload if need be. With write-back the client is told that the blob is taken when it is on disk, and
the rest is `debts`' affair; with write-through when upstream has it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from proxy.cache import BlobStore, CacheError, NoSpace, Spool
from proxy.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RegistryError,
    UploadTooLarge,
)
from proxy.oci import Digest, RepositoryName
from proxy.refusals import Reason, Refusals
from proxy.services.debts import Debt, Debts
from proxy.services.existence import Existence
from proxy.services.openings import Openings
from proxy.services.outgoing import UpstreamUpload
from proxy.services.received import OnDisk, Received
from proxy.services.registries import PushMode, Target
from proxy.services.sessions import Session, Sessions
from proxy.services.straight import Straight
from proxy.services.tokens import UploadTokens
from proxy.upstream import Upload

_log = logging.getLogger(__name__)

_ALGORITHM: Final = "sha256"
_IDLE_SECONDS: Final = 3600.0


class Uploads:
    """Begins, continues, commits and cancels the uploads of clients."""

    def __init__(
        self,
        store: BlobStore,
        tokens: UploadTokens,
        openings: Openings,
        debts: Debts,
        existence: Existence,
        refusals: Refusals,
        *,
        most: int,
        max_size: int,
    ) -> None:
        """`most`: how many one client may have open; `max_size`: of a blob, in bytes."""
        self._store = store
        self._tokens = tokens
        self._openings = openings
        self._debts = debts
        self._existence = existence
        self._refusals = refusals
        self._max_size = max_size
        self._sessions = Sessions(most, refusals)

    @property
    def open_count(self) -> int:
        """How many clients have open, as far as they were heard of since the start."""
        return self._sessions.count

    async def close(self) -> None:
        """Forget what is open; what lies on disk is found again by its location's token."""
        for session in self._sessions.all():
            self._sessions.remove(session)
            if isinstance(session.received, OnDisk):
                await session.received.transfer.cancel(upstream=False)
                await session.received.spool.close()

    async def start(self, target: Target) -> str:
        """Begin an upload and give the token that its location carries; raises upstream's words.

        Upstream is not asked where it has lately taken a push: it hears of the blob soon enough.
        Raises `TooManyRequests`, before anybody is asked, where its client has too many open.
        """
        with self._sessions.room(target.client):
            upload = None
            if not self._openings.were_taken(target):
                upload = await self._openings.open(target, patient=True)
            return await self._register(target, upload)

    async def mount(
        self, target: Target, digest: Digest, source: RepositoryName | None
    ) -> str | None:
        """Mount a blob from another repository; the token of an upload where it cannot be.

        Where upstream does not mount, a blob that is on disk is sent from there, if whoever asks
        may read it under `source`; unless the manifest that names it would wait too long for that.
        """
        with self._sessions.room(target.client):
            upload = await self._openings.mount(target, digest, source)
            if upload is None:
                self._existence.add(target, digest, None)
                return None
            if source and await self._may_read(replace(target, repository=source), digest):
                may_owe = self._debts.has(target, digest) or self._debts.has_room(target, digest)
                debt = self._debts.owe_stored(target, digest, upload) if may_owe else None
                if debt is not None:
                    await self._keep_promise(debt)
                    return None
            return await self._register(target, upload)

    def check_size(self, size: int) -> None:
        """Raise `UploadTooLarge` for a blob of so many bytes, if it is."""
        if size > self._max_size:
            self._refusals.count(Reason.UPLOAD_SIZE)
            raise UploadTooLarge(
                f"a blob of more than {self._max_size} bytes (max-upload-size) is not taken; ECR "
                "itself takes 52,000 MiB at most. Make the layer smaller, or raise the setting"
            )

    async def append(
        self,
        target: Target,
        token: str,
        body: AsyncIterator[bytes],
        *,
        offset: int | None,
        length: int | None,
    ) -> int:
        """Take more of a blob, beginning at `offset` if the client says where it stands.

        `length` is the body's, in bytes, if that is known. Gives the bytes received in all. Raises
        `RangeInvalid` for another offset than that, `UploadTooLarge`, which ends the upload, and
        upstream's words for what it refuses.
        """
        async with self._use(target, token) as session:
            session.check_offset(offset)
            self.check_size(session.size + (length or 0))
            await session.receive(body, self.check_size)
            return session.size

    async def finish(
        self,
        target: Target,
        token: str,
        digest: Digest,
        body: AsyncIterator[bytes],
        *,
        offset: int | None,
        length: int | None,
    ) -> None:
        """Take what is left, and commit the blob: to the cache, and to upstream now or soon.

        Raises as `append`, and `DigestInvalid` when the bytes hash to something else.
        """
        async with self._use(target, token) as session:
            session.check_offset(offset)
            self.check_size(session.size + (length or 0))
            await session.receive(body, self.check_size)
            if isinstance(session.received, Straight):
                await self._finish_straight(session, session.received, digest)
                return
            try:
                await session.received.verify(session.target, digest)
            except DigestInvalid:
                await self._drop(session)
                raise
            # ECR takes no blob without bytes (ECR.md §4), which its client should hear at once.
            if session.target.push_mode is PushMode.WRITE_BACK and session.received.size:
                await self._owe(session, session.received, digest)
            else:
                await self._write_through(session, session.received, digest)
            self._sessions.remove(session)

    async def status(self, target: Target, token: str) -> int:
        """The bytes received so far; raises `BlobUploadUnknown`."""
        return (await self._find(target, token)).size

    async def cancel(self, target: Target, token: str) -> None:
        async with self._use(target, token) as session:
            await self._drop(session)

    async def expire(self) -> None:
        """Drop uploads that no client has touched for an hour."""
        now = time.monotonic()
        for session in self._sessions.all():
            if now - session.last_used > _IDLE_SECONDS and not session.lock.locked():
                async with session.lock:
                    await self._drop(session)

    # Sessions

    async def _register(self, target: Target, upload: Upload | None) -> str:
        name = secrets.token_hex(16)
        received: OnDisk | Straight
        try:
            received = self._on_disk(
                target, await self._store.create_spool(name, _ALGORITHM), upload
            )
        except NoSpace:
            received = Straight(UpstreamUpload(target, self._openings, upload))
        self._sessions.add(Session(name, target, target.client, received))
        return self._tokens.issue(name, target)

    def _on_disk(self, target: Target, spool: Spool, upload: Upload | None) -> OnDisk:
        content = Received(self._store, spool)
        transfer = self._debts.transfer(UpstreamUpload(target, self._openings, upload, content))
        return OnDisk(spool, content, transfer)

    @asynccontextmanager
    async def _use(self, target: Target, token: str) -> AsyncIterator[Session]:
        session = await self._find(target, token)
        async with session.lock:
            if not self._sessions.has(session):
                raise _unknown(target)  # finished or cancelled while this request waited
            session.resume()
            try:
                yield session
            except UploadTooLarge:
                await self._drop(session)
                raise
            except RegistryError:
                if isinstance(session.received, OnDisk) and session.received.transfer.failure:
                    # It was refused for good; what there is of it is of no use.
                    await self._drop(session)
                raise
            finally:
                session.last_used = time.monotonic()  # a body may have taken longer than an hour
                if session.is_lost:
                    self._sessions.remove(session)
                elif self._sessions.has(session):
                    session.pause()

    async def _find(self, target: Target, token: str) -> Session:
        name, client = self._tokens.read(token, target)
        session = self._sessions.find(name)
        if session is None:
            session = await self._restore(name, target, client)
        session.last_used = time.monotonic()
        return session

    async def _restore(self, name: str, target: Target, client: str) -> Session:
        """After a restart: the bytes are on disk, and go upstream in a new upload."""
        spool = await self._store.open_spool(name, _ALGORITHM)
        if spool is None:
            raise _unknown(target)
        # Another request may have restored it while this one was reading the disk.
        session = self._sessions.find(name)
        if session is not None:
            await spool.close()
            return session
        received = self._on_disk(target, spool, None)
        received.transfer.owe(spool.size)
        received.transfer.grow(spool.size)
        received.transfer.pause()  # whoever asks for it need not go on with it
        session = Session(name, target, client, received)
        self._sessions.add(session)
        return session

    async def _drop(self, session: Session) -> None:
        # In this order: while the bytes are on disk, whoever misses the session would restore it.
        received = session.received
        if isinstance(received, OnDisk):
            await received.spool.discard()
        self._sessions.remove(session)
        if isinstance(received, OnDisk):
            await received.transfer.cancel()
        else:
            await received.cancel()

    # Committing

    async def _finish_straight(self, session: Session, straight: Straight, digest: Digest) -> None:
        try:
            await straight.commit(digest)
        finally:
            self._sessions.remove(session)
        self._debts.paid(session.target, digest, straight.size)

    async def _write_through(self, session: Session, received: OnDisk, digest: Digest) -> None:
        received.transfer.finish(digest, received.size)
        try:
            await received.transfer.settled()
        except BaseException:
            await self._drop(session)  # it is that blob now, and takes no more
            raise
        await received.publish(digest)
        self._debts.paid(session.target, digest, received.size)

    async def _owe(self, session: Session, received: OnDisk, digest: Digest) -> None:
        """Let the client go on as soon as the blob is on disk for good."""
        if not self._debts.has(session.target, digest):
            # From here on it is sent, however small: what is owed in all grows less by that alone,
            # and others that are as small may wait for the same.
            received.transfer.finish(digest, received.size)
            try:
                await received.transfer.promise()
            except BaseException:
                await self._drop(session)  # it is that blob now, and takes no more
                raise
        try:
            await self._begin_owing(session, received, digest)
        finally:
            # The blob is the debt's affair now. Not before its bytes have left the upload: until
            # then whoever missed the session would restore it, and write to what is published.
            self._sessions.remove(session)

    async def _begin_owing(self, session: Session, received: OnDisk, digest: Digest) -> None:
        known = self._debts.find(session.target, digest)
        if known is not None:  # somebody else has just pushed it, or while this one waited
            await received.transfer.cancel()
            await received.publish(digest)
            await self._keep_promise(known)
            return
        debt = self._debts.begin(session.target, digest, received.size, received.transfer)
        # The disk is at work while it is sent. A note without its blob, after a crash, is of a
        # promise that was not given yet.
        noted = asyncio.ensure_future(self._note(debt))
        try:
            await received.publish(digest, keep=True)
            if not await noted or not self._store.contains(digest):
                await self._pay(debt)
        finally:
            await asyncio.wait([noted])
            await received.spool.discard()

    async def _keep_promise(self, debt: Debt) -> None:
        """Make sure of a blob before a client hears that it is taken: by a note, or by paying."""
        is_kept = self._store.contains(debt.digest)
        if debt.target.push_mode is PushMode.WRITE_BACK and is_kept and await self._note(debt):
            return
        await self._pay(debt)

    async def _note(self, debt: Debt) -> bool:
        """Whether what is owed is written down."""
        if debt.written:
            return True
        try:
            await self._debts.write_down(debt)
        except CacheError as error:
            _log.warning("what is owed cannot be written down, so it is paid: %s", error)
            return False
        return True

    async def _pay(self, debt: Debt) -> None:
        try:
            await debt.transfer.settled()
        except RegistryError:
            # What another client was told is taken is owed all the same.
            if not (debt.written and self._store.contains(debt.digest)):
                await self._debts.drop(debt)
            raise

    async def _may_read(self, source: Target, digest: Digest) -> bool:
        if not self._store.contains(digest):
            return False
        if self._debts.has(source, digest):
            return True  # which upstream cannot confirm yet
        try:
            await self._existence.ask(source, digest, patient=False)
        except RegistryError:
            return False  # then it is for the client to show that it has the blob
        return True


def _unknown(target: Target) -> BlobUploadUnknown:
    return BlobUploadUnknown(
        f"no such upload in {target.repository}: it was finished, cancelled or has expired; "
        "begin a new one"
    )
