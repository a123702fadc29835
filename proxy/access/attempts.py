"""How many wrong credentials come from where: who tries many is not heard for a while."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

MAX_FAILURES: Final = 10
WINDOW_SECONDS: Final = 60.0
_REMEMBERED: Final = 16_384
_IPV6_PREFIX: Final = 64


class TooManyAttempts(Exception):
    """So many were wrong that no more is tried for `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"{MAX_FAILURES} wrong credentials in {WINDOW_SECONDS:g} s")
        self.retry_after = retry_after


@dataclass(slots=True)
class _Turn:
    """Held by one request of an address at a time; `users` is how many hold or await it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Attempts:
    """Wrong credentials by the address that they came from, none older than the window.

    The same ones again count once: that is a client with an old password, which guesses nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed = LRUCache[str, dict[bytes, float]](_REMEMBERED)
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """One after the other: however many are sent at once, no more are tried than may fail."""
        network = network_of(address)
        turn = self._turns.setdefault(network, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[network]

    def begin(self, address: str, attempt: bytes) -> None:
        """Count an attempt before it is made, so that nobody gets one for nothing by leaving.

        Raises `TooManyAttempts` when there were too many.
        """
        network, now = network_of(address), self._clock()
        failed = {
            a: t for a, t in self._failed.get(network, {}).items() if now - t < WINDOW_SECONDS
        }
        if len(failed) >= MAX_FAILURES:
            oldest = min(failed.values())
            raise TooManyAttempts(max(1, math.ceil(WINDOW_SECONDS - (now - oldest))))
        self._failed[network] = failed | {attempt: failed.get(attempt, now)}

    def forgive(self, address: str, attempt: bytes) -> None:
        """It was right."""
        self._failed.get(network_of(address), {}).pop(attempt, None)


def network_of(address: str) -> str:
    """What one client has of addresses: a single one of IPv4, of IPv6 a /64 (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_link_local:  # all machines of a link are in one /64
        return str(parsed)
    return str(ipaddress.IPv6Network((parsed, _IPV6_PREFIX), strict=False))
