"""Which registries cannot be asked just now, so that not everybody waits to find that out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from proxy.errors import RegistryError
from proxy.events import Event, Events, Kind

# How long a registry that could not be asked is left alone by those who can do without.
_PAUSE_SECONDS: Final = 5.0
# How often it is told that stale proofs are used.
_TELL_SECONDS: Final = 60.0


def is_trouble(error: RegistryError) -> bool:
    """Whether upstream could not be asked, or did not decide: no answer to what was asked.

    A 401 is one, though clients hear of it as of an outage.
    """
    return error.is_trouble


class Outages:
    """When each registry last could not be asked. `clock` gives seconds that never go back."""

    def __init__(self, events: Events, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._again_at: dict[str, float] = {}  # by registry, those in trouble only
        self._tell_at: dict[str, float] = {}

    def failed(self, registry: str) -> None:
        self._again_at[registry] = self._clock() + _PAUSE_SECONDS

    def answered(self, registry: str) -> None:
        self._again_at.pop(registry, None)

    def shall_ask(self, registry: str) -> bool:
        """Whether the caller, who can do without, should ask: of those who come while a registry
        is in trouble, one every few seconds."""
        again_at = self._again_at.get(registry)
        if again_at is None:
            return True
        if self._clock() < again_at:
            return False
        self.failed(registry)  # as far as the others go, until this one has its answer
        return True

    def tell(self, registry: str) -> None:
        """Say, once in a while, that readers are let in by what was proved before."""
        now = self._clock()
        if now < self._tell_at.get(registry, now):
            return
        self._tell_at[registry] = now + _TELL_SECONDS
        detail = "it cannot be asked who may read what is on disk; older answers are trusted"
        self._events.emit(Event(Kind.TROUBLE, registry, detail=detail))
