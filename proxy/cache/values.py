"""What the store gives of itself: blobs that are held in place, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.cache.space import Space
from proxy.oci import Digest


class Pin:
    """Keeps a file from eviction until `release`, or the end of the `with` block.

    It may be there only later.
    """

    __slots__ = ("_key", "_space")

    def __init__(self, space: Space, key: bytes) -> None:
        self._key = key
        self._space: Space | None = space
        space.pin(key)

    def release(self) -> None:
        """Let it be evicted again; more than once does no harm."""
        if self._space is not None:
            space, self._space = self._space, None
            space.unpin(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class PinnedBlob(Pin):
    """A blob that stays on disk until it is released.

    `path` is a file of `size` bytes that does not change. It may be opened late.
    """

    __slots__ = ("path", "size")

    def __init__(self, space: Space, key: bytes, size: int) -> None:
        super().__init__(space, key)
        self.path = Path(space.layout.path_of(key))
        self.size = size


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """`size` in bytes, `disk` what the file system counts for it."""

    digest: Digest
    size: int
    disk: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cache holds: sizes in bytes as the file system counts them.

    `floor` is to stay free of the file system, `free` is. `blob_bytes` are the blobs' own sizes;
    `partial` counts blobs that broke off, `quarantined` those that were damaged, `unknown` files
    and folders that are not ours.
    """

    limit: int
    used: int
    reserved: int
    floor: int
    free: int
    blobs: int
    blob_bytes: int
    quarantined: int
    partial: int
    unknown: int
    scanning: bool
    degraded: bool
