"""What upstream has said of permission: that a repository holds a blob."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Final

from proxy.oci import Digest
from proxy.services.registries import Target

# A grant by ECR itself, a presigned URL, is good for an hour (ECR.md §3): nobody is let in for
# longer by this table than by the registry, as long as the registry can be asked.
PROOF_SECONDS = 3600.0
_MAX_PROOFS = 200_000
_KEY_BYTES = 16  # of a cryptographic hash: nobody finds a digest that meets another one's proof
_VALUE = Struct("dq")  # the time and the size: as bytes they take half of what a tuple takes
_NO_SIZE: Final = -1


@dataclass(frozen=True, slots=True)
class Proof:
    """`age` in seconds; `size` in bytes, None if upstream did not say."""

    age: float
    size: int | None


class Proofs:
    """That (registry, repository) holds a digest, as upstream said it, when, and of what size.

    A blob lies on disk once for all repositories; this is what keeps the ones of a private
    repository from whoever merely knows their digests.

    A proof is good for `seconds`; for `stale_seconds` more it is kept, for a time when upstream
    cannot be asked. A full table of 200,000 takes 41 MB (measured); the oldest go first.
    `clock` gives seconds that never go back.

    Invariant: `_proofs` is in the order of its times.
    """

    def __init__(
        self,
        *,
        seconds: float = PROOF_SECONDS,
        stale_seconds: float = 0.0,
        limit: int = _MAX_PROOFS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._stale_seconds = stale_seconds
        self._limit = limit
        self._clock = clock
        self._proofs: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._proofs)

    def find(self, target: Target, digest: Digest) -> Proof | None:
        """What was proved, if not too long ago."""
        return self._find(target, digest, self._seconds)

    def has(self, target: Target, digest: Digest) -> bool:
        """Whether it was proved, not too long ago."""
        return self._find(target, digest, self._seconds) is not None

    def had(self, target: Target, digest: Digest) -> bool:
        """Whether it was proved so long ago at most as will do while upstream cannot be asked."""
        return self._find(target, digest, self._seconds + self._stale_seconds) is not None

    def add(self, target: Target, digest: Digest, size: int | None = None) -> None:
        """Upstream has said that it is so; a size that it has said before stays known."""
        key = _key(target, digest)
        now = self._clock()
        number = _NO_SIZE if size is None else size
        if size is None and (old := self._proofs.get(key)) is not None:
            _, number = _VALUE.unpack(old)
        self._proofs[key] = _VALUE.pack(now, number)
        self._proofs.move_to_end(key)
        oldest = now - self._seconds - self._stale_seconds
        while len(self._proofs) > self._limit or self._first() <= oldest:
            self._proofs.popitem(last=False)

    def drop(self, target: Target, digest: Digest) -> None:
        """Upstream has said that it is not so, or what was proved may be so no more."""
        self._proofs.pop(_key(target, digest), None)

    def _find(self, target: Target, digest: Digest, seconds: float) -> Proof | None:
        value = self._proofs.get(_key(target, digest))
        if value is None:
            return None
        proved, number = _VALUE.unpack(value)
        age = self._clock() - proved
        return Proof(age, None if number == _NO_SIZE else number) if age < seconds else None

    def _first(self) -> float:
        """When the oldest was proved."""
        proved: float = _VALUE.unpack(next(iter(self._proofs.values())))[0]
        return proved


def _key(target: Target, digest: Digest) -> bytes:
    text = "\0".join((*target.key, digest))  # none of them holds a NUL
    return blake2b(text.encode(), digest_size=_KEY_BYTES).digest()
