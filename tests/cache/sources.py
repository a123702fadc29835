"""Sources of bytes for fills: small, real, and stopped at gates instead of by clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Gate:
    """A place in a stream where it waits: `reached` is set when it is there, `go` lets it on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


class Cut(Exception):
    """The stream broke."""


@dataclass(slots=True)
class Stream:
    source: ByteSource
    total: int | None
    start: int

    async def chunks(self) -> AsyncIterator[bytes]:
        source = self.source
        at = self.start
        while True:
            gate = source.gates.get(at)
            if gate is not None:
                gate.reached.set()
                await gate.go.wait()
            if at in source.cuts:
                source.cuts.remove(at)
                raise Cut(f"cut at {at}")
            if at in source.ends:
                source.ends.remove(at)
                return
            if at >= len(source.content):
                return
            stops = [at + source.chunk, *source.gates, *source.cuts, *source.ends]
            end = min(stop for stop in stops if stop > at)
            yield source.content[at:end]
            at = min(end, len(source.content))


@dataclass(slots=True)
class ByteSource:
    """Content that can be opened at any offset.

    `cuts` and `ends`: offsets at which a stream breaks, or just ends, each once for every time it
    is listed; `gates`: offsets at which it waits; `says`: the total it names, if not the truth.
    """

    content: bytes
    chunk: int = 64 * 1024
    cuts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    gates: dict[int, Gate] = field(default_factory=dict)
    tells_total: bool = True
    says: int | None = None
    ranges: bool = True
    refuses: Exception | None = None
    opened: list[int] = field(default_factory=list)
    open_now: int = 0

    @asynccontextmanager
    async def open(self, start: int, end: int | None = None) -> AsyncIterator[Stream]:
        self.opened.append(start)
        if self.refuses is not None:
            raise self.refuses
        total = len(self.content) if self.says is None else self.says
        self.open_now += 1
        try:
            yield Stream(self, total if self.tells_total else None, start if self.ranges else 0)
        finally:
            self.open_now -= 1

    def gate(self, at: int) -> Gate:
        self.gates[at] = Gate()
        return self.gates[at]
