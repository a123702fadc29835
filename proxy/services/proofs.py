"""What upstream has said of permission: that a repository holds a blob."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from proxy.oci import Digest
from proxy.services.registries import Target

# A grant by ECR itself, a presigned URL, is good for an hour (ECR.md §3): nobody is let in for
# longer by this table than by the registry, as long as the registry can be asked.
PROOF_SECONDS = 3600.0
_MAX_PROOFS = 200_000
_KEY_BYTES = 16  # of a cryptographic hash: nobody finds a digest that meets another one's proof


class Proofs:
    """That (registry, repository) holds a digest, as upstream said it, and when.

    A blob lies on disk once for all repositories; this is what keeps the ones of a private
    repository from whoever merely knows their digests.

    A proof is good for `seconds`; for `stale_seconds` more it is kept, for a time when upstream
    cannot be asked. A full table of 200,000 takes 36 MB (measured); the oldest go first.
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
        self._proofs: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._proofs)

    def has(self, target: Target, digest: Digest) -> bool:
        """Whether it was proved, not too long ago."""
        return self._is_younger(target, digest, self._seconds)

    def had(self, target: Target, digest: Digest) -> bool:
        """Whether it was proved so long ago at most as will do while upstream cannot be asked."""
        return self._is_younger(target, digest, self._seconds + self._stale_seconds)

    def add(self, target: Target, digest: Digest) -> None:
        key = _key(target, digest)
        now = self._clock()
        self._proofs[key] = now
        self._proofs.move_to_end(key)
        oldest = now - self._seconds - self._stale_seconds
        while len(self._proofs) > self._limit or next(iter(self._proofs.values())) <= oldest:
            self._proofs.popitem(last=False)

    def drop(self, target: Target, digest: Digest) -> None:
        """Upstream has said that it is not so, or what was proved may be so no more."""
        self._proofs.pop(_key(target, digest), None)

    def _is_younger(self, target: Target, digest: Digest, seconds: float) -> bool:
        proved = self._proofs.get(_key(target, digest))
        return proved is not None and self._clock() - proved < seconds


def _key(target: Target, digest: Digest) -> bytes:
    text = "\0".join((*target.key, digest))  # none of them holds a NUL
    return blake2b(text.encode(), digest_size=_KEY_BYTES).digest()
