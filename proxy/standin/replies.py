"""An answer as a value: what the front ends return and `delivery` sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes `start` to `stop` (exclusive) of a file of `size` bytes.

    `plain`: the request's own Range header, or its absence, says the same, so that the file may
    go out by sendfile.
    """

    path: Path
    size: int
    start: int
    stop: int
    plain: bool = True

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and body. `hangup`: no answer at all, the connection is closed.

    A reply to HEAD has no body, and states the length in `headers`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart = b""
    hangup: bool = False

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


HANGUP = Reply(0, hangup=True)
