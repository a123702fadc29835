"""What upstream has said of permission: that a repository holds a blob."""

from __future__ import annotations

from cachetools import TTLCache

from proxy.oci import Digest
from proxy.services.registries import Target

# A grant by ECR itself, a presigned URL, is good for an hour (ECR.md §3): nobody is let in for
# longer by this table than by the registry.
PROOF_SECONDS = 3600.0
_MAX_PROOFS = 200_000


class Proofs:
    """That (registry, repository) holds a digest, said by upstream within the last hour.

    A blob lies on disk once for all repositories; this is what keeps the ones of a private
    repository from whoever merely knows their digests.
    """

    def __init__(self, *, seconds: float = PROOF_SECONDS) -> None:
        self._proofs: TTLCache[tuple[str, str, Digest], None] = TTLCache(_MAX_PROOFS, seconds)

    def has(self, target: Target, digest: Digest) -> bool:
        return (*target.key, digest) in self._proofs

    def add(self, target: Target, digest: Digest) -> None:
        self._proofs[(*target.key, digest)] = None

    def drop(self, target: Target, digest: Digest) -> None:
        self._proofs.pop((*target.key, digest), None)
