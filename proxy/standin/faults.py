"""Faults on demand: which requests they meet, how often, and gates to hold requests at.

Decides only; `exchange` and `delivery` carry them out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with the requests it matches. Several may meet in one request.

    Matching: `server` "registry", "s3", "api" or "" for all; `method` "" for all; `path` is a
    regular expression searched in the raw target; the first `skip` matches pass, then `times`
    are met (None: all, until removed).

    Before the request is handled: `latency` seconds; `hold` waits for `Armed.release`; `reset`
    resets the connection; `status` answers at once (with `body` and `headers`, else in the
    server's own style: 503 of S3 is SlowDown). `request_cut` resets once so many bytes of the
    request's body were read (0: as soon as the handler wants any).
    On the reply: `lose_reply` does the work and resets; `cut_after` closes the connection after so
    many body bytes; `hold_at` waits for `Armed.release` there; `corrupt_at` flips the byte at that
    offset of the body; `no_length` leaves Content-Length out; `ignore_range` sends the whole body.
    `bandwidth` is in bytes a second for each connection, both ways; `uplink` the same for the
    bodies of all requests that are met, taken together: what they share on their way here.
    """

    server: str = ""
    method: str = ""
    path: str = ""
    times: int | None = 1
    skip: int = 0
    latency: float = 0.0
    hold: bool = False
    reset: bool = False
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    request_cut: int | None = None
    lose_reply: bool = False
    cut_after: int | None = None
    hold_at: int | None = None
    corrupt_at: int | None = None
    no_length: bool = False
    ignore_range: bool = False
    bandwidth: int | None = None
    uplink: int | None = None


class Link:
    """A line of `rate` bytes a second that several connections share, first come, first served."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = 0.0

    def delay(self, size: int, now: float) -> float:
        """Seconds until so many bytes, which wait since `now`, have passed; they are counted."""
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at - now


class Armed:
    """A fault in force. `reached` is set when a request waits at its gate; `hits` counts."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.number = number
        self.fault = fault
        self.hits = 0
        self.link = Link(fault.uplink) if fault.uplink else None
        self.reached = asyncio.Event()
        self._seen = 0
        self._gate = asyncio.Event()
        self._path = re.compile(fault.path)

    def release(self) -> None:
        """Let go of whatever waits at the gate, now and later."""
        self._gate.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._gate.wait()

    @property
    def is_spent(self) -> bool:
        return self.fault.times is not None and self.hits >= self.fault.times

    def matches(self, server: str, method: str, path: str) -> bool:
        """Whether this request is met; counts it."""
        fault = self.fault
        if (
            self.is_spent
            or fault.server not in ("", server)
            or fault.method not in ("", method)
            or self._path.search(path) is None
        ):
            return False
        self._seen += 1
        if self._seen <= fault.skip:
            return False
        self.hits += 1
        return True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go wrong with one request: all faults that met it, added up."""

    met: tuple[Armed, ...] = ()

    @property
    def latency(self) -> float:
        return sum(armed.fault.latency for armed in self.met)

    @property
    def bandwidth(self) -> int | None:
        return min((a.fault.bandwidth for a in self.met if a.fault.bandwidth), default=None)

    def delay(self, size: int, now: float) -> float:
        """Seconds that so many bytes of the request's body take."""
        delays = [armed.link.delay(size, now) for armed in self.met if armed.link is not None]
        return max(delays, default=0.0) + (size / self.bandwidth if self.bandwidth else 0.0)

    @property
    def touches_reply(self) -> bool:
        """Whether the reply cannot simply be handed to the kernel."""
        return any(
            a.fault.lose_reply
            or a.fault.no_length
            or a.fault.bandwidth is not None
            or a.fault.cut_after is not None
            or a.fault.hold_at is not None
            or a.fault.corrupt_at is not None
            for a in self.met
        )

    def has(self, name: str) -> bool:
        """Whether a switch of that name is on in any of them."""
        return any(getattr(armed.fault, name) for armed in self.met)

    def first(self, name: str) -> int | None:
        """The first number of that name that is given."""
        values = (getattr(armed.fault, name) for armed in self.met)
        return next((value for value in values if value is not None), None)

    def answer(self) -> Fault | None:
        """The fault that answers in place of the server."""
        return next((a.fault for a in self.met if a.fault.status is not None), None)


NO_FAULT = Plan()


class Faults:
    """The faults in force, in the order they were added."""

    def __init__(self) -> None:
        self._armed: dict[int, Armed] = {}
        self._count = 0

    def add(self, fault: Fault) -> Armed:
        self._count += 1
        armed = Armed(self._count, fault)
        self._armed[armed.number] = armed
        return armed

    def find(self, number: int) -> Armed | None:
        return self._armed.get(number)

    def remove(self, armed: Armed) -> None:
        """Take a fault out of force, and let go of what waits at it."""
        self._armed.pop(armed.number, None)
        armed.release()

    def clear(self) -> None:
        for armed in list(self._armed.values()):
            self.remove(armed)

    def armed(self) -> list[Armed]:
        return list(self._armed.values())

    def plan(self, server: str, method: str, path: str) -> Plan:
        """The faults that meet this request; each counts it."""
        if not self._armed:
            return NO_FAULT
        met = tuple(a for a in self._armed.values() if a.matches(server, method, path))
        return Plan(met) if met else NO_FAULT
