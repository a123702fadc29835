"""How many downloads from upstream run at once, and whose turn it is to begin the next one.

A download goes on when its reader has left, so without a limit a client that asks for thousands of
blobs and hangs up would have them all fetched. Only bookkeeping: what is downloaded, and who may
read it, is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from proxy.errors import RegistryError, Unavailable
from proxy.refusals import Reason, Refusals

# Below the 30 s in which some clients want a reply's headers (BUILDKIT.md).
WAIT_SECONDS: Final = 20.0
# How many places a client may hold for each that is left free. With 3 one client gets at most three
# quarters of all, a second one three quarters of the rest, and so on: however greedy they are,
# there is a place for the next one who comes, at once. A fixed share for each would be either
# small for one who is alone, or taken up by two.
_FOR_EACH_FREE: Final = 3


class ReaderLeft(RegistryError):
    """Whoever waited does so no more: nobody reads the answer, but for the log."""

    code = "UNAVAILABLE"
    status = 499  # nginx's: the client has closed its request


class Running(Protocol):
    """Something that has begun, and ends."""

    def when_over(self, call: Callable[[], None]) -> None: ...


T = TypeVar("T", bound=Running)


@dataclass(slots=True, eq=False)
class _Waiter(Generic[T]):
    """One who waits: `begin` gives None where there is nothing to begin any more."""

    client: str
    key: Hashable
    begin: Callable[[], T | None]
    outcome: asyncio.Future[T | None]


class Downloads(Generic[T]):
    """Lets downloads begin, one of each client after the other.

    Invariants: `_held` counts what runs by who began it, without zeros; between two steps nobody
    waits who may begin; nobody waits for a key that was begun while they did.
    """

    def __init__(self, limit: int, refusals: Refusals, *, wait: float = WAIT_SECONDS) -> None:
        """At most `limit` run at once; nobody waits longer than `wait` seconds."""
        self._limit = limit
        self._refusals = refusals
        self._wait = wait
        self._held: dict[str, int] = {}
        self._running = 0
        # The client whose turn is next comes first, with its waiters in their order.
        self._queues: OrderedDict[str, dict[_Waiter[T], None]] = OrderedDict()
        self._by_key: dict[Hashable, dict[_Waiter[T], None]] = {}

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    async def begin(
        self,
        client: str,
        key: Hashable,
        begin: Callable[[], T | None],
        *,
        left: Callable[[], Awaitable[None]],
    ) -> T | None:
        """Call `begin` as soon as there is a place, and hold that until what it gave is over.

        None where `begin` gave that, or somebody else began the same `key` meanwhile. `begin` is
        called in the step in which the place becomes free, so that nobody comes between. `left`
        returns when whoever asks does not want it any more; it is called only for one who waits.
        Raises `Unavailable` after too long a wait, and `ReaderLeft`.
        """
        if client not in self._queues and self._may_begin(client):
            return self._begin(client, key, begin)
        waiter = _Waiter(client, key, begin, asyncio.get_running_loop().create_future())
        self._queues.setdefault(client, {})[waiter] = None
        self._by_key.setdefault(key, {})[waiter] = None
        leaving = asyncio.ensure_future(left())
        try:
            await asyncio.wait(
                {waiter.outcome, leaving},
                timeout=self._wait,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if waiter.outcome.done():
                return waiter.outcome.result()
            if leaving.done():
                leaving.result()
                raise ReaderLeft("the client left while it waited for a download to begin")
        finally:
            self._remove(waiter)
            leaving.cancel()
            await asyncio.wait([leaving])
        self._refusals.count(Reason.FILLS)
        raise Unavailable(
            f"{self._running} blobs are being fetched from registries, {self._held.get(client, 0)} "
            f"of them for this client, and none made way within {self._wait:g} seconds: ask again "
            f"later. max-fills ({self._limit}) says how many there may be at once; one client "
            "gets three quarters of that at most",
            headers={"Retry-After": "10"},
        )

    def _may_begin(self, client: str) -> bool:
        free = self._limit - self._running
        held = self._held.get(client, 0)
        return free > 0 and (held == 0 or held + 1 <= _FOR_EACH_FREE * (free - 1))

    def _begin(self, client: str, key: Hashable, begin: Callable[[], T | None]) -> T | None:
        begun = begin()
        if begun is not None:
            self._running += 1
            self._held[client] = self._held.get(client, 0) + 1
            begun.when_over(lambda: self._end(client))
        # What they wait for has come about, one way or the other.
        for waiter in list(self._by_key.get(key, ())):
            self._remove(waiter)
            if not waiter.outcome.done():
                waiter.outcome.set_result(None)
        return begun

    def _end(self, client: str) -> None:
        self._running -= 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._let_in()

    def _let_in(self) -> None:
        while (waiter := self._next()) is not None:
            self._remove(waiter)
            if waiter.client in self._queues:
                self._queues.move_to_end(waiter.client)
            try:
                begun = self._begin(waiter.client, waiter.key, waiter.begin)
            except Exception as error:  # noqa: BLE001 it is for whoever waits to raise
                waiter.outcome.set_exception(error)
            else:
                waiter.outcome.set_result(begun)

    def _next(self) -> _Waiter[T] | None:
        """Who is to begin now: the first of the first client that may."""
        for client, queue in self._queues.items():
            if self._may_begin(client):
                return next(iter(queue))
        return None

    def _remove(self, waiter: _Waiter[T]) -> None:
        """Forget who waits, if that was not done yet."""
        queue = self._queues.get(waiter.client, {})
        if queue.pop(waiter, 0) == 0:
            return
        if not queue:
            del self._queues[waiter.client]
        same = self._by_key[waiter.key]
        del same[waiter]
        if not same:
            del self._by_key[waiter.key]
