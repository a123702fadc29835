"""Blobs that stay on disk because a client was told that they are there.

It will not upload them; should its manifest be refused for them after all, they can still be sent
from here.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from proxy.cache import BlobStore, PinnedBlob
from proxy.cache.budget import disk_need
from proxy.oci import Digest
from proxy.services.registries import Target

# Longer than an export takes from its first question to its manifest.
LEASE_SECONDS: Final = 900.0
_MAX_LEASES: Final = 10_000

_Key: TypeAlias = tuple[str, str, Digest]


@dataclass(frozen=True, slots=True)
class _Lease:
    """`need` is what the blob takes on disk at most, in bytes."""

    pin: PinnedBlob
    need: int
    until: float


class Leases:
    """Blobs kept from eviction for a repository, until its manifest was put or for `seconds`.

    They take half of the budget at most: beyond it, or beyond `limit` of them, the oldest are given
    up first. `clock` gives seconds that never go back.

    Invariants: `_held` and `_given_up` are in the order of their times; no key is in both;
    `_total` is the sum of what is held.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        seconds: float = LEASE_SECONDS,
        limit: int = _MAX_LEASES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._held: OrderedDict[_Key, _Lease] = OrderedDict()
        self._given_up: OrderedDict[_Key, float] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, target: Target, digest: Digest, *, confirmed: bool = False) -> bool:
        """Keep a blob, or keep it for longer; False if that cannot be promised.

        It is not on disk, or too large, or was given up for others not long ago. `confirmed`:
        upstream has just said that it is there, which makes good for the latter.
        """
        self._expire_old()
        key = (*target.key, digest)
        if key in self._given_up and not confirmed:
            return False
        pin = self._store.find(digest)
        self._end(key)
        if pin is None:
            return False
        need = disk_need(pin.size)
        allowed = self._store.budget_bytes // 2
        if need > allowed:
            pin.release()
            return False
        while self._total + need > allowed or len(self._held) >= self._limit:
            oldest = next(iter(self._held))
            self._end(oldest)
            self._given_up[oldest] = self._clock() + self._seconds
            if len(self._given_up) > self._limit:
                self._given_up.popitem(last=False)
        self._held[key] = _Lease(pin, need, self._clock() + self._seconds)
        self._total += need
        return True

    def release(self, target: Target, digests: Iterable[Digest]) -> None:
        """A manifest that names them was put: upstream has them, and keeps them."""
        for digest in digests:
            self._end((*target.key, digest))

    def expire(self) -> None:
        """Housekeeping: let go of what nobody came back for, and of what was removed meanwhile."""
        self._expire_old()
        for key in [key for key in self._held if not self._store.contains(key[2])]:
            self._end(key)  # its bytes are freed only without a pin

    def close(self) -> None:
        while self._held:
            self._end(next(iter(self._held)))

    def _expire_old(self) -> None:
        """Let go of what nobody came back for in time."""
        now = self._clock()
        while self._held and next(iter(self._held.values())).until <= now:
            self._end(next(iter(self._held)))
        while self._given_up and next(iter(self._given_up.values())) <= now:
            self._given_up.popitem(last=False)

    def _end(self, key: _Key) -> None:
        self._given_up.pop(key, None)
        lease = self._held.pop(key, None)
        if lease is not None:
            self._total -= lease.need
            lease.pin.release()
