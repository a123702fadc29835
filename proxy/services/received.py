"""What there is on disk of a blob that a client pushes, and where it is read from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from proxy.cache import BlobStore, Spool
from proxy.oci import Digest
from proxy.services.transfers import Transfer


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
