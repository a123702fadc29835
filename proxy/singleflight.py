"""Concurrent callers with the same question share one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """One running task per key; whoever asks while it runs gets its outcome.

    Invariant: a key is in `_flights` exactly while its task runs. The task belongs to this object,
    not to a caller: a caller that is cancelled leaves the others undisturbed.
    """

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Await the running flight for `key`, or start `work` as one; raises what `work` raises."""
        # No await between look-up and registration: two callers can never both start.
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_run(work))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(flight)

    def _land(self, key: K, flight: asyncio.Task[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # marks it as seen where every caller has gone away

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


async def _run(work: Callable[[], Awaitable[V]]) -> V:
    return await work()
