"""Blobs of any size that cost no memory to hold: one random block over and over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from proxy.oci import Digest

_BLOCK: Final = 4 * 1024 * 1024


@cache
def _block() -> memoryview:
    return memoryview(os.urandom(_BLOCK))


@dataclass(frozen=True, slots=True)
class Content:
    """`size` bytes that no other content has."""

    size: int
    digest: Digest = field(init=False)
    _head: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_head", os.urandom(min(self.size, 64)))
        hasher = hashlib.sha256()
        for piece in self.pieces():
            hasher.update(piece)
        object.__setattr__(self, "digest", Digest.of_hash(hasher))

    def pieces(self) -> Iterator[bytes | memoryview]:
        yield self._head
        left = self.size - len(self._head)
        while left > 0:
            piece = _block()[:left]
            left -= len(piece)
            yield piece
