"""Blobs that a repository had, and that are had from disk all the same: upstream has lost them, or
cannot be asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from proxy.oci import Digest
from proxy.services.proofs import PROOF_SECONDS
from proxy.services.registries import Target

_MAX_VOUCHED: Final = 20_000


class Vouched:
    """What readers of a repository may have from disk for an hour, whatever upstream has.

    Each was named by a manifest that somebody was given, who may come for it. It says nothing to
    those who push: upstream needs it from them. What is lent is theirs only as long as upstream
    cannot be asked. `clock` gives seconds that never go back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._vouched: TTLCache[tuple[str, str, Digest], None] = TTLCache(
            _MAX_VOUCHED, PROOF_SECONDS, timer=clock
        )
        self._lent: TTLCache[tuple[str, str, Digest], None] = TTLCache(
            _MAX_VOUCHED, PROOF_SECONDS, timer=clock
        )

    def add(self, target: Target, digest: Digest) -> None:
        self._vouched[(*target.key, digest)] = None

    def has(self, target: Target, digest: Digest) -> bool:
        return (*target.key, digest) in self._vouched

    def drop(self, target: Target, digest: Digest) -> None:
        """Upstream has denied it, which is more than not to have it; or it was deleted."""
        self._vouched.pop((*target.key, digest), None)
        self._lent.pop((*target.key, digest), None)

    def lend(self, target: Target, digest: Digest) -> None:
        """A manifest names it that was given to somebody while upstream could not be asked."""
        self._lent[(*target.key, digest)] = None

    def is_lent(self, target: Target, digest: Digest) -> bool:
        return (*target.key, digest) in self._lent
