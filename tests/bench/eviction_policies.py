"""Policies of eviction to compare with the cache's own: by the book, counted in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Final, Protocol

from proxy.cache.policy import AgedLfu, Entry

# The part of the cache that S3-FIFO and SLRU keep for what has yet to show its worth.
_SMALL: Final = 0.1
_PROBATION: Final = 0.5
_KEY_BYTES: Final = 33  # as the cache's


class Contender(Protocol):
    """An order of what is in a cache; blobs are numbers, sizes bytes."""

    def add(self, blob: int, size: int) -> None:
        """A blob that is not there."""

    def use(self, blob: int) -> None:
        """A blob that is there was pulled."""

    def evict(self) -> int:
        """Forget the blob that goes first, and tell which it was; there is one."""


class Fifo:
    """What came first goes first."""

    def __init__(self, capacity: int) -> None:
        self._blobs: OrderedDict[int, None] = OrderedDict()

    def add(self, blob: int, size: int) -> None:
        self._blobs[blob] = None

    def use(self, blob: int) -> None:
        pass

    def evict(self) -> int:
        return self._blobs.popitem(last=False)[0]


class Lru(Fifo):
    """What was used longest ago goes first."""

    def use(self, blob: int) -> None:
        self._blobs.move_to_end(blob)


class Slru:
    """LRU in two segments: what is used moves to the protected one, and from there back.

    What is on probation goes first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity * (1 - _PROBATION)
        self._probation: OrderedDict[int, int] = OrderedDict()
        self._protected: OrderedDict[int, int] = OrderedDict()
        self._protected_bytes = 0

    def add(self, blob: int, size: int) -> None:
        self._probation[blob] = size

    def use(self, blob: int) -> None:
        if blob in self._protected:
            self._protected.move_to_end(blob)
            return
        size = self._probation.pop(blob)
        self._protected[blob] = size
        self._protected_bytes += size
        while self._protected_bytes > self._capacity:
            blob, size = self._protected.popitem(last=False)
            self._protected_bytes -= size
            self._probation[blob] = size

    def evict(self) -> int:
        if self._probation:
            return self._probation.popitem(last=False)[0]
        blob, size = self._protected.popitem(last=False)
        self._protected_bytes -= size
        return blob


class Sieve:
    """A hand goes from the oldest to the newest, and takes the first that was not used since.

    Zhang et al., NSDI 2024. Unlike with a clock, what is spared stays in its place.
    """

    def __init__(self, capacity: int) -> None:
        # A ring through None, which comes after the newest and before the oldest.
        self._newer: dict[int | None, int | None] = {None: None}
        self._older: dict[int | None, int | None] = {None: None}
        self._used: set[int] = set()
        self._hand: int | None = None

    def add(self, blob: int, size: int) -> None:
        newest = self._older[None]
        self._newer[newest] = self._older[None] = blob
        self._older[blob], self._newer[blob] = newest, None

    def use(self, blob: int) -> None:
        self._used.add(blob)

    def evict(self) -> int:
        while (hand := self._hand) is None or hand in self._used:
            self._used.discard(-1 if hand is None else hand)
            self._hand = self._newer[hand]
        newer, older = self._newer.pop(hand), self._older.pop(hand)
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        return hand


class S3Fifo:
    """A small queue that what is used twice leaves for the main one, and a memory of what left.

    Yang et al., SOSP 2023: what comes back soon after it left the small queue enters the main one,
    which is a clock with counts up to 3.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        self._small_bytes = self._ghost_bytes = 0
        self._counts: dict[int, int] = {}

    def add(self, blob: int, size: int) -> None:
        self._counts[blob] = 0
        if blob in self._ghosts:
            self._ghost_bytes -= self._ghosts.pop(blob)
            self._main[blob] = size
        else:
            self._small[blob] = size
            self._small_bytes += size

    def use(self, blob: int) -> None:
        self._counts[blob] = min(3, self._counts[blob] + 1)

    def evict(self) -> int:
        while True:
            if self._small and (self._small_bytes > self._capacity * _SMALL or not self._main):
                blob, size = self._small.popitem(last=False)
                self._small_bytes -= size
                if self._counts[blob] < 2:
                    self._remember(blob, size)
                    break
                self._counts[blob] = 0
                self._main[blob] = size
            else:
                blob, size = self._main.popitem(last=False)
                if self._counts[blob] == 0:
                    break
                self._counts[blob] -= 1
                self._main[blob] = size
        del self._counts[blob]
        return blob

    def _remember(self, blob: int, size: int) -> None:
        self._ghosts[blob] = size
        self._ghost_bytes += size
        while self._ghost_bytes > self._capacity:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]


class Gdsf:
    """GreedyDual-Size with Frequency: worth most is what is used often and small.

    Cherkasova, HPL-98-69. A blob's worth is its uses by its size to the power `weight`, on top of
    the worth of the last one that had to go. A weight of 1 is made for the share of requests that
    hit; one of 0, LFU with dynamic aging, for the share of bytes.
    """

    def __init__(self, capacity: int, weight: float = 1.0) -> None:
        self._weight = weight
        self._floor = 0.0
        self._turn = 0  # tells the last worth of a blob from older ones that are in the heap
        self._heap: list[tuple[float, int, int]] = []
        self._blobs: dict[int, tuple[int, int, int]] = {}  # uses, size, turn

    def add(self, blob: int, size: int) -> None:
        self._put(blob, 1, size)

    def use(self, blob: int) -> None:
        uses, size, _ = self._blobs[blob]
        self._put(blob, uses + 1, size)

    def evict(self) -> int:
        while True:
            worth, turn, blob = heappop(self._heap)
            if blob in self._blobs and self._blobs[blob][2] == turn:
                self._floor = worth
                del self._blobs[blob]
                return blob

    def _put(self, blob: int, uses: int, size: int) -> None:
        self._turn += 1
        self._blobs[blob] = (uses, size, self._turn)
        worth = self._floor + uses / (size / 1e6) ** self._weight
        heappush(self._heap, (worth, self._turn, blob))


class Shipped:
    """What the proxy does."""

    def __init__(self, capacity: int) -> None:
        self._policy = AgedLfu()

    def add(self, blob: int, size: int) -> None:
        self._policy.add(_key(blob), Entry(size, size))

    def use(self, blob: int) -> None:
        self._policy.use(_key(blob))

    def evict(self) -> int:
        key, _ = next(self._policy.candidates())
        self._policy.remove(key)
        return int.from_bytes(key, "big")


def _key(blob: int) -> bytes:
    return blob.to_bytes(_KEY_BYTES, "big")


# By name; each is made for a capacity in bytes.
CONTENDERS: Final[Mapping[str, Callable[[int], Contender]]] = {
    "shipped": Shipped,
    "LRU": Lru,
    "FIFO": Fifo,
    "SLRU": Slru,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "GDSF": Gdsf,
    "GDSF, size^0.5": lambda capacity: Gdsf(capacity, 0.5),
    "LFU-DA": lambda capacity: Gdsf(capacity, 0.0),
}
