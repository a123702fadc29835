"""What there is on disk of a blob that a client pushes, and where it is read from."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from proxy.cache import BlobStore, CacheError, NoSpace, Spool
from proxy.errors import DigestInvalid
from proxy.oci import Digest
from proxy.services.registries import Target
from proxy.services.transfers import Transfer

_log = logging.getLogger(__name__)


class StoredContent:
    """The bytes of a blob on disk, which somebody keeps there."""

    def __init__(self, store: BlobStore, digest: Digest) -> None:
        self._store = store
        self._digest = digest

    def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        return self._store.read(self._digest, start, end)


class Received:
    """The bytes of an upload: where they are received, and once `digest` is set, in the store."""

    def __init__(self, store: BlobStore, spool: Spool) -> None:
        self.digest: Digest | None = None
        self._store = store
        self._spool = spool

    def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        if self._spool.is_open or self.digest is None:
            return self._spool.read(start, end)
        return self._store.read(self.digest, start, end)


@dataclass(slots=True)
class OnDisk:
    """An upload on disk, and its way upstream."""

    spool: Spool
    content: Received
    transfer: Transfer

    @property
    def size(self) -> int:
        return self.spool.size

    async def append(self, chunk: bytes) -> bool:
        """Take in more, when so much may be owed; false where the disk has no room for it.

        Raises upstream's words, or its trouble that does not pass.
        """
        await self.transfer.admit(len(chunk))
        try:
            await self.spool.append(chunk)
        except BaseException as error:
            self.transfer.owe(-len(chunk))
            if isinstance(error, NoSpace):
                return False
            raise
        self.transfer.grow(self.spool.size)
        return True

    async def verify(self, target: Target, digest: Digest) -> None:
        """Raises `DigestInvalid`; where the bytes cannot be read, upstream finds a wrong digest."""
        try:
            actual = await self.spool.digest(digest.algorithm)
        except CacheError:
            return  # the disk refuses a read: if it refuses the next one, sending says so
        if actual != digest:
            raise DigestInvalid(
                f"the blob pushed to {target.repository} as {digest} hashes to {actual}"
            )

    async def publish(self, digest: Digest, *, keep: bool = False) -> None:
        """Make a blob of what was received; where the disk refuses, that is so be it.

        `keep`: leave it where it is then.
        """
        self.content.digest = digest
        try:
            await self.spool.publish(digest)
        except CacheError as error:
            _log.warning("%s was pushed, and is not stored here: %s", digest, error)
            if not keep:
                await self.spool.discard()
