"""What was refused for the sake of safety, to clients and to registries, counted by reason.

A leaf: whoever refuses counts, the metrics show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    UNAUTHENTICATED = "unauthenticated"  # no credentials, or wrong ones
    DENIED = "denied"  # no rule allows it
    ATTEMPTS = "attempts"  # too many wrong passwords from one address, or too many to try in time
    CONNECTIONS = "connections"  # as many as there may be in all
    CONNECTIONS_PER_CLIENT = "connections-per-client"
    BAD_REQUEST = "bad-request"  # what is no HTTP, or can be read in two ways
    HEADER_SIZE = "header-size"
    HEADER_TIMEOUT = "header-timeout"  # also a TLS handshake's
    BODY_TIMEOUT = "body-timeout"
    SEND_TIMEOUT = "send-timeout"  # a client that reads nothing
    MANIFEST_SIZE = "manifest-size"
    UPLOAD_SIZE = "upload-size"
    UPLOADS_PER_CLIENT = "uploads-per-client"
    FILLS = "fills"  # no room for another download in time
    REDIRECT = "redirect"  # upstream sent us where we do not go


class Refusals:
    """Counts them; all reasons are there from the start."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Reason, 0)

    def count(self, reason: Reason) -> None:
        self._counts[reason] += 1

    def counts(self) -> Mapping[str, int]:
        return {reason.value: count for reason, count in self._counts.items()}
