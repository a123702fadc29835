"""What the proxy does, told as it happens: for the demo's live view, the log and metrics.

A leaf: whoever does something emits, whoever wants to know subscribes; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Kind(StrEnum):
    HIT = "hit"  # a blob from disk; size = bytes that did not cross the uplink
    MISS = "miss"  # a blob fetched from upstream; size = bytes asked for, 0 if not known
    JOIN = "join"  # a reader joined a fill that runs already
    BYPASS = "bypass"  # a blob streamed through unstored
    STORED = "stored"  # a blob was verified and published on disk
    EVICTED = "evicted"
    CORRUPT = "corrupt"  # what upstream sent, or what is on disk, does not hash to its digest
    DEGRADED = "degraded"  # the disk is full or refuses: nothing is stored for now
    RECOVERED = "recovered"  # the end of that, or of an outage of upstream's
    PUSHED_BLOB = "pushed-blob"
    PUSHED_MANIFEST = "pushed-manifest"
    REPAIRED = "repaired"  # what upstream had lost of a pushed manifest was sent again from disk
    CREATED = "created"  # a repository was created upstream for a push
    REWRITTEN = "rewritten"  # a legacy cache manifest was stored as an image manifest
    RESTORED = "restored"  # a stored image manifest was shown in a legacy form
    BROKEN = "broken"  # a cache that has lost blobs was answered as not there
    TOKEN = "token"  # noqa: S105 a registry token was obtained, not the token
    TROUBLE = "trouble"  # something went wrong that no client had to hear of


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `size` is in bytes; fields that do not apply are empty."""

    kind: Kind
    registry: str = ""
    repository: str = ""
    reference: str = ""  # digest or tag
    size: int = 0
    detail: str = ""


Subscriber: TypeAlias = Callable[[Event], None]


class Events:
    """Calls every subscriber in turn, synchronously: subscribers must be quick and not raise."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)
