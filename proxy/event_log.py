"""Events in the log: what an operator should hear of, and that not over and over.

A leaf. What is counted, and what the demo shows, is told elsewhere.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from proxy.events import Event, Kind

_log = logging.getLogger(__name__)

# What an operator should hear of without asking; the rest is for --log-level debug.
_LEVELS: Final = {
    Kind.TROUBLE: logging.WARNING,
    Kind.DEGRADED: logging.WARNING,
    Kind.RECOVERED: logging.WARNING,
    Kind.CORRUPT: logging.WARNING,
    Kind.REPAIRED: logging.WARNING,
    Kind.BROKEN: logging.WARNING,
    Kind.CREATED: logging.INFO,
    Kind.TOKEN: logging.INFO,
    Kind.REWRITTEN: logging.INFO,
}

# One trouble meets all layers of an export, and each of them again until it has passed.
_REPEAT_SECONDS: Final = 60.0
_MAX_TROUBLES: Final = 1000
# Digests, uploads and offsets are what tells one layer's trouble from another's.
_OWN: Final = re.compile(r"[\w:-]*[0-9a-f]{6,}[\w:-]*|\d{4,}")

_Key = tuple[str, str, str]


class EventLog:
    """Logs events as they are told to it. `clock` gives seconds that never go back.

    The same trouble, of whichever blob, is a warning once a minute in each repository, with how
    often it came in between.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When each trouble was last logged, and how often it came since; in the order of time.
        self._troubles: OrderedDict[_Key, tuple[float, int]] = OrderedDict()

    def tell(self, event: Event) -> None:
        level, more = _LEVELS.get(event.kind, logging.DEBUG), 0
        if event.kind is Kind.TROUBLE:
            level, more = self._weigh(event)
        # A detail often is a sentence about the reference.
        reference = "" if event.reference in event.detail else event.reference
        repeated = f"(and {more} more like it)" if more else ""
        parts = (event.registry, event.repository, reference, event.detail, repeated)
        _log.log(level, "%s: %s", event.kind.value, " ".join(part for part in parts if part))

    def _weigh(self, event: Event) -> tuple[int, int]:
        """The level of a trouble, and how many like it were not logged as warnings before it."""
        key = (event.registry, event.repository, _OWN.sub("", event.detail))
        now = self._clock()
        logged, more = self._troubles.get(key, (None, 0))
        if logged is not None and now - logged < _REPEAT_SECONDS:
            self._troubles[key] = (logged, more + 1)
            return logging.DEBUG, 0
        self._troubles[key] = (now, 0)
        self._troubles.move_to_end(key)
        if len(self._troubles) > _MAX_TROUBLES:
            self._troubles.popitem(last=False)
        return logging.WARNING, more
