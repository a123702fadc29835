"""How many connections there may be, in all and from one client, and what the others are told.

Counted from accept on, so that a TLS handshake is a connection too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

from proxy.access import network_of
from proxy.errors import RegistryError, TooManyRequests, Unavailable
from proxy.handlers.connections import render
from proxy.refusals import Reason, Refusals

_log = logging.getLogger(__name__)

# Who is turned away gets an answer if it asks within so many seconds, and as many at a time.
_PATIENCE_SECONDS: Final = 5.0
_MAX_WAITING: Final = 64
_REPEAT_SECONDS: Final = 60.0


class Ticket:
    """A connection's place; `give_back` may be called more than once."""

    def __init__(self, admission: Admission, client: str) -> None:
        self._admission: Admission | None = admission
        self._client = client

    def give_back(self) -> None:
        if self._admission is not None:
            self._admission.leave(self._client)
            self._admission = None


class Admission:
    """Lets connections in as long as there is room.

    Invariant: `total` is the sum of the clients' counts, which are those of tickets not given back.
    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        refusals: Refusals,
        *,
        most: int,
        most_per_client: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refusals = refusals
        self._most = most
        self._most_per_client = most_per_client
        self._clock = clock
        self._by_client: Counter[str] = Counter()
        self._logged: dict[Reason, float] = {}
        self.total = 0
        self.waiting = 0

    def enter(self, address: str) -> Ticket | RegistryError:
        """A place for a connection from this address, or why there is none."""
        client = network_of(address)
        if self._by_client[client] >= self._most_per_client:
            return self._refuse(
                Reason.CONNECTIONS_PER_CLIENT,
                TooManyRequests(
                    f"{client} has {self._most_per_client} connections here, which is the most "
                    "that one address may have (the setting max-connections-per-client); close "
                    "some, or try again later",
                    headers={"Retry-After": "1"},
                ),
            )
        if self.total >= self._most:
            return self._refuse(
                Reason.CONNECTIONS,
                Unavailable(
                    f"the proxy has {self._most} connections, which is the most that it takes "
                    "(the setting max-connections); try again later",
                    headers={"Retry-After": "1"},
                ),
            )
        self._by_client[client] += 1
        self.total += 1
        return Ticket(self, client)

    def leave(self, client: str) -> None:
        """For a ticket that is given back."""
        self.total -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def turn_away(self, error: RegistryError) -> TurnedAway | None:
        """Who tells a client why; None when as many are being told that nobody else can be."""
        if self.waiting >= _MAX_WAITING:
            return None
        self.waiting += 1
        return TurnedAway(error, self._told)

    def _told(self) -> None:
        self.waiting -= 1

    def _refuse(self, reason: Reason, error: RegistryError) -> RegistryError:
        self._refusals.count(reason)
        now = self._clock()
        if now - self._logged.get(reason, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._logged[reason] = now
            _log.warning("a connection is turned away: %s", error.message)
        return error


class TurnedAway(asyncio.Protocol):
    """Answers whatever is asked with one error, and ends; soon also if nothing is asked."""

    def __init__(self, error: RegistryError, done: Callable[[], None]) -> None:
        self._error = error
        self._done: Callable[[], None] | None = done
        self._answered = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_PATIENCE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        # What follows is read and thrown away: a reset would take the reply with it.
        if self._transport is None or self._answered:
            return
        self._answered = True
        self._transport.write(render(self._error, body=not data.startswith(b"HEAD ")))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.give_back()

    def give_back(self) -> None:
        """The end, also of what never came to be a connection; may be called more than once."""
        if self._timer is not None:
            self._timer.cancel()
        if self._done is not None:
            self._done()
            self._done = None
