"""Whether a registry answers at all, so that not everybody waits to find out that it does not.

Knows neither HTTP nor calls: `client` tells how each exchange with the registry's own host ended,
and asks to be let through before the next one.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from proxy.errors import BadGateway, RegistryError
from proxy.events import Event, Events, Kind
from proxy.upstream.values import Tuning


class _State(Enum):
    CLOSED = auto()  # all may ask
    SUSPECTED = auto()  # a probe is to tell; whoever comes waits for its verdict
    OPEN = auto()  # nobody asks but the probe


class Breaker:
    """One registry's circuit breaker (settled 8 of DESIGN.md: a clear error at once).

    A few failures in a row make a suspicion, or a single one if there was nothing but silence:
    whoever met that has waited long. A probe on a connection of its own turns it into an outage,
    so that neither one request that always fails nor one connection that is dead shuts out all
    others. In an outage the probe alone asks, further and further apart; the first answer, whoever
    gets it, ends it.

    Invariant: `_task` runs exactly while the state is not CLOSED, and `_last` is set by then.
    """

    def __init__(
        self,
        probe: Callable[[float], Awaitable[None]],
        *,
        registry: str,
        events: Events,
        tuning: Tuning,
    ) -> None:
        """`probe` asks once and waits so many seconds; it raises `RegistryError` for no answer."""
        self._probe = probe
        self._registry = registry
        self._events = events
        self._tuning = tuning
        self._state = _State.CLOSED
        self._failures = 0
        self._answers = 0
        self._last: RegistryError = BadGateway(f"{registry} was closed")
        self._probe_at = 0.0
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def is_down(self) -> bool:
        return self._state is _State.OPEN

    def begin(self) -> int:
        """A mark to give to `failed`, should the exchange that begins now fail."""
        return self._answers

    def answered(self) -> None:
        """An exchange ended with an answer of the registry's, whatever it says."""
        self._answers += 1
        self._failures = 0
        if self._state is not _State.CLOSED:
            self._recover()

    def failed(self, error: RegistryError, begun: int, *, silent: bool = False) -> None:
        """An exchange failed that had begun at that mark; `silent`: its time ran out."""
        if silent and self._answers != begun:
            return  # others were answered meanwhile: it was that connection
        self._failures += 1
        enough = silent or self._failures >= self._tuning.failures
        if enough and self._state is _State.CLOSED and not self._is_over:
            self._last = error
            self._enter(_State.SUSPECTED)
            self._task = asyncio.create_task(self._watch())

    async def admit(self, deadline: float | None = None) -> None:
        """Return as soon as the registry may be asked; raise what is wrong with it instead.

        In an outage at once, or at `deadline` (by the loop's clock) if there is one.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while self._state is not _State.CLOSED:
                    if self._is_over or (self.is_down and deadline is None):
                        raise self._refusal()
                    await self._changed.wait()
        except TimeoutError:
            raise self._refusal() from None

    def retry_after(self) -> int:
        """Seconds until asking again makes sense, at least 1."""
        left = self._probe_at - asyncio.get_running_loop().time() if self.is_down else 0.0
        return max(1, math.ceil(left))

    async def close(self) -> None:
        """End the probes; whoever waits hears of the outage."""
        self._is_over = True
        self._wake()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        tuning = self._tuning
        limit, pause = tuning.verdict, tuning.first_probe
        while True:
            failure = await self._ask(limit)
            if failure is None:
                self.answered()
                return
            self._last = failure
            if self._state is _State.SUSPECTED:
                self._enter(_State.OPEN)
                self._tell(Kind.TROUBLE, f"not asked until it answers: {failure.message}")
            # Jitter, so that many proxies do not ask a registry that comes back all at once.
            seconds = pause * random.uniform(0.5, 1.0)  # noqa: S311 no secret
            self._probe_at = asyncio.get_running_loop().time() + seconds
            await asyncio.sleep(seconds)
            # A registry that is back may be slow at first.
            limit, pause = min(limit * 2, tuning.answer), min(pause * 2, tuning.last_probe)

    async def _ask(self, limit: float) -> RegistryError | None:
        try:
            await self._probe(limit)
        except RegistryError as error:
            return error
        except Exception as error:  # noqa: BLE001 without this task an outage would never end
            return BadGateway(f"{self._registry} cannot be asked: {error}")
        return None

    def _recover(self) -> None:
        was_down = self.is_down
        self._enter(_State.CLOSED)
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if was_down:
            self._tell(Kind.RECOVERED, "it answers again")

    def _enter(self, state: _State) -> None:
        self._state = state
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _refusal(self) -> RegistryError:
        headers = {**self._last.headers, "Retry-After": str(self.retry_after())}
        return type(self._last)(
            f"{self._registry} does not answer: {self._last.message}", headers=headers
        )

    def _tell(self, kind: Kind, detail: str) -> None:
        self._events.emit(Event(kind, registry=self._registry, detail=detail))
