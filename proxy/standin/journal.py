"""The requests that came in, for tests to look at. Bounded: the oldest are forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request, from the moment its headers were in.

    `number` and `ended` are taken from one count, of arrivals and of answers: a request that came
    after another one was answered has a greater number than that one's `ended`, which is None while
    the answer is not decided. It is decided before a byte of it is sent.

    `server` is "registry", "s3" or "api"; `path` the raw target with its query; `status` None
    while the answer is not decided, 0 if the connection was closed without one. Sizes in bytes,
    `request_bytes` as far as the body was read. `stored` is the digest of the blob or manifest that
    the request put into the repository, also where its answer was lost, else empty.
    """

    number: int
    server: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    status: int | None = None
    request_bytes: int = 0
    reply_bytes: int = 0
    ended: int | None = None
    stored: str = ""

    def header(self, name: str) -> str | None:
        """The first header of that name, in whatever case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


_LONG: Final = 256  # characters
_TABLE: Final = 256  # entries


class Journal:
    """Requests in the order of their arrival; at most `limit` of them.

    The long header values (tokens of several thousand characters, in every request) are kept once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, Recorded] = OrderedDict()
        self._long_values: dict[str, str] = {}
        self._count = 0

    def begin(self, server: str, method: str, path: str, headers: Iterable[tuple[str, str]]) -> int:
        self._count += 1
        kept = tuple((name, self._once(value)) for name, value in headers)
        self._entries[self._count] = Recorded(self._count, server, method, path, kept)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return self._count

    def end(
        self, number: int, *, status: int, request_bytes: int, reply_bytes: int, stored: str = ""
    ) -> None:
        self._count += 1
        entry = self._entries.get(number)
        if entry is not None:
            self._entries[number] = replace(
                entry,
                status=status,
                request_bytes=request_bytes,
                reply_bytes=reply_bytes,
                ended=self._count,
                stored=stored,
            )

    def entries(self) -> list[Recorded]:
        return list(self._entries.values())

    def clear(self) -> None:
        self._entries.clear()

    def _once(self, value: str) -> str:
        if len(value) < _LONG:
            return value
        if len(self._long_values) >= _TABLE:
            self._long_values.clear()
        return self._long_values.setdefault(value, value)
