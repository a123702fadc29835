"""A token that is kept fresh: one request for it at a time, renewed long before it expires.

Knows neither AWS nor HTTP: a source gives tokens, `TokenKeeper` keeps the one in use.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.errors import RegistryError, Unavailable
from proxy.events import Event, Events, Kind
from proxy.singleflight import SingleFlight
from proxy.upstream.auth import ANY
from proxy.upstream.values import Tuning

# Between two attempts of the background, when nothing else asks: AWS is not to be hammered, and
# credentials that appear are to be noticed soon enough for a readiness probe.
_LONGEST_PAUSE: Final = 60.0
_SHORTEST_PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Token:
    """An Authorization header's value, and for how many seconds from now it will be accepted."""

    header: str = field(repr=False)
    lifetime: float


class _Held:
    """A token in use; moments are the loop's clock."""

    def __init__(self, token: Token) -> None:
        self.header = token.header
        self.obtained = _now()
        self.expires = self.obtained + token.lifetime
        # Half of its life is left to find out that renewing fails, and to mend that. The jitter
        # keeps many proxies that started together from asking together.
        share = random.uniform(0.45, 0.55)  # noqa: S311 no secret
        self.renew_at = self.obtained + max(token.lifetime * share, _SHORTEST_PAUSE)
        self.accepted = False


class TokenKeeper:
    """An `Authorizer` with one token for all that it is asked for.

    Invariant: `_held` is the newest token ever obtained; it is replaced, never dropped, so a
    source that fails takes away nothing. `_problem` is set exactly while the last attempt failed.
    """

    def __init__(
        self,
        source: Callable[[], Awaitable[Token]],
        *,
        registry: str,
        events: Events,
        tuning: Tuning,
    ) -> None:
        self._source = source
        self._registry = registry
        self._events = events
        self._tuning = tuning
        self._held: _Held | None = None
        self._problem: str | None = None
        self._tried_at = float("-inf")
        self._flight: SingleFlight[str, None] = SingleFlight()
        self._background: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask for a first token, wait a moment for the outcome, and keep it fresh until closed.

        Never raises: without a token `problem` says why, and the background goes on trying.
        """
        self._background = asyncio.create_task(self._keep_fresh())
        first = asyncio.ensure_future(self._attempt())
        await asyncio.wait({first}, timeout=self._tuning.start_wait)
        if first.done() and not first.cancelled():
            first.exception()  # told by `problem`
        else:
            first.cancel()  # the waiting, not the flight

    async def header(self, scope: str = ANY) -> str | None:
        held = self._held
        if held is None or _now() >= held.expires:
            try:
                await self._attempt()
            except RegistryError:
                # By our clock it is too old; upstream's clock is the one that counts.
                if held is None:
                    raise
        return self._current().header

    async def refresh(
        self, used: str | None, *, scope: str = ANY, challenge: Sequence[str] = ()
    ) -> None:
        held = self._held
        if held is not None and held.header != used:
            return
        # A new token that is refused as the old one was would be refused again: one that upstream
        # has never taken is replaced now and then, not once a request.
        if held is not None and not held.accepted and self._is_recent():
            return
        await self._attempt()

    def accepted(self, used: str | None, *, scope: str = ANY) -> None:
        if self._held is not None and self._held.header == used:
            self._held.accepted = True

    def age(self, scope: str = ANY) -> float | None:
        return None if self._held is None else _now() - self._held.obtained

    def problem(self) -> str | None:
        if self._held is not None and _now() < self._held.expires:
            return None
        if self._problem is not None:
            return self._problem
        return None if self._held else f"no token for {self._registry} yet: AWS has not answered"

    async def close(self) -> None:
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
        await self._flight.close()

    def _current(self) -> _Held:
        if self._held is None:
            raise Unavailable(f"no token for {self._registry}")
        return self._held

    def _is_recent(self) -> bool:
        return _now() - self._tried_at < self._tuning.between

    async def _attempt(self) -> None:
        """One attempt at a new token, shared by all who want one; raises what the source raises.

        Soon after a failure that failure is raised again instead of asking again.
        """
        if self._problem is not None and self._is_recent():
            raise Unavailable(self._problem)
        await self._flight.do("token", self._obtain)

    async def _obtain(self) -> None:
        try:
            token = await self._source()
        except RegistryError as error:
            self._tried_at = _now()
            self._problem = error.message
            survived = self._held is not None and _now() < self._held.expires
            self._tell(
                Kind.TROUBLE,
                f"no new token, the old one stays in use: {error.message}"
                if survived
                else error.message,
            )
            raise
        self._tried_at = _now()
        self._held = _Held(token)
        self._problem = None
        self._tell(Kind.TOKEN, f"valid for {_span(token.lifetime)}")

    async def _keep_fresh(self) -> None:
        pause = self._tuning.between
        while True:
            held = self._held
            if self._problem is not None:
                await asyncio.sleep(max(pause, _SHORTEST_PAUSE))
                pause = min(pause * 2, _LONGEST_PAUSE)
            elif held is not None:
                pause = self._tuning.between
                await asyncio.sleep(max(held.renew_at - _now(), 0.0))
                if self._held is not held:
                    continue  # somebody who was refused has renewed it meanwhile
            try:
                await self._attempt()
            except RegistryError:
                continue  # told by the event and by `problem`; the next round tries again

    def _tell(self, kind: Kind, detail: str) -> None:
        self._events.emit(Event(kind, registry=self._registry, detail=detail))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _span(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
