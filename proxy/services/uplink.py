"""How far clients may run ahead of a registry, and whose turn it is to send to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from proxy.cache.disk import Signal
from proxy.errors import GatewayTimeout, RegistryError
from proxy.services.pace import Pace

MIB: Final = 1024 * 1024
# What is owed to a registry is sent in so many seconds at the rate that was measured: with what
# else a reply waits for, it stays below the 30 s that some clients give it (BUILDKIT.md).
_SECONDS_AHEAD: Final = 15.0
_MOST_AHEAD: Final = 256 * MIB
# Until a rate was measured: 13 s of a line of 10 Mbit/s.
_AHEAD_AT_FIRST: Final = 16 * MIB
# Small blobs take a round trip or two each, whatever their size.
_MOST_BLOBS: Final = 128
# ECR's least for all parts but the last, and where it cuts what is longer itself (ECR.md §4): what
# is longer is a multiple of that, or else its end would be too short. And what a part may grow to.
_LEAST_PART: Final = 5 * MIB
_ECR_CUT: Final = 10 * MIB
_LARGEST_PART: Final = 30 * MIB
# Many connections at once have caused socket failures (ECR.md §7).
_AT_ONCE: Final = 8
# Nor more than the line carries in so long, in seconds: all of it together comes to its end late,
# and an answer that takes too long counts as none (`Tuning.idle`), so that all is sent again.
_SECONDS_ON_WAY: Final = 20.0
# Until a rate was measured: 42 s of a line of 2 Mbit/s.
_ON_WAY_AT_FIRST: Final = 2 * _LEAST_PART
# A push waits so long, in seconds, for trouble upstream to pass: old clients do not ask again.
PUSH_PATIENCE: Final = 20.0
# Over a line on which something is on its way still, so many times that, and three times after
# bytes set out last: what timed out was sent too much of at once, as happens to a line that has
# become slower, and one part by itself may take as long. To a registry that hangs nothing is on its
# way for long: the breaker sees to that.
_MOVING: Final = 9
_AFTER_MOVING: Final = 3


@dataclass(slots=True, eq=False)
class Share:
    """What one blob has of an uplink: `owed` bytes that upstream has not confirmed.

    `promised`: a client was told that the blob is taken. `urgent`: a manifest waits for it.
    """

    number: int
    owed: int = 0
    promised: bool = False
    urgent: bool = False
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the last sending failed with, and since when none has worked, by the uplink's clock."""

    error: RegistryError
    since: float


class Uplink:
    """One registry, as those see it who send to it. `clock` never goes back (seconds).

    Invariants: `owed` and `blobs` are sums over the shares that are counted; `trouble` is set
    while the last sending has failed for a reason that may pass.
    """

    def __init__(
        self, *, clock: Callable[[], float] | None = None, patience: float = PUSH_PATIENCE
    ) -> None:
        self.owed = 0
        self.blobs = 0
        self.trouble: Trouble | None = None
        self._clock = clock or asyncio.get_running_loop().time
        self._patience = patience
        self._pace = Pace(self._clock)
        self._news = Signal()
        self._count = 0
        self._taking: dict[Share, None] = {}  # those that wait to be let in, in their order
        self._sending = 0
        self._on_way = 0  # bytes of those that are sending
        self._queue: dict[Share, tuple[int, asyncio.Future[None]]] = {}
        self._moved_at = 0.0
        self._sleepers: set[asyncio.Event] = set()

    @property
    def limit(self) -> int:
        """How many bytes may be owed."""
        rate = self._pace.rate
        if rate is None:
            return _AHEAD_AT_FIRST
        return int(min(max(rate * _SECONDS_AHEAD, _LEAST_PART), _MOST_AHEAD))

    def part_size(self, sent: int) -> int:
        """How many bytes to send next of a blob of which `sent` are there.

        So few that a slow line confirms one in a few seconds; and more and more of a blob of many
        gigabytes, as ECR takes only 4,200 parts.
        """
        size = max(min(max(self.limit // 8, _LEAST_PART), _LARGEST_PART), sent // 1000)
        return size if size < _ECR_CUT else size - size % _ECR_CUT

    # Shares

    def join(self) -> Share:
        self._count += 1
        return Share(self._count)

    def leave(self, share: Share) -> None:
        """Nothing is owed of it any more, or nobody will pay."""
        self.pause(share)
        share.owed = 0

    def pause(self, share: Share) -> None:
        """Nobody goes on with it for now: it keeps nobody else waiting."""
        if share.counted:
            share.counted = False
            self.owed -= share.owed
            self.blobs -= share.promised
            self._news.wake()

    def resume(self, share: Share) -> None:
        if not share.counted:
            share.counted = True
            self.owed += share.owed
            self.blobs += share.promised

    def owe(self, share: Share, size: int) -> None:
        """So many bytes more are owed; less than 0: were confirmed."""
        share.owed += size
        if share.counted:
            self.owed += size
        if size < 0:
            self._news.wake()

    async def admit(self, share: Share, size: int, *, part: Callable[[], int]) -> None:
        """Wait until `size` bytes more of a blob may be taken in, and count them.

        `part` gives how many bytes of it are sent at once, and is called whenever that is
        considered. Raises upstream's trouble when that does not pass.
        """

        def fits() -> bool:
            full = part()
            if self.owed + size <= self.limit:
                return True
            # A part is sent when it is full. So that all that may be owed is not taken up by parts
            # that are not, the first who waits gets the rest of its own.
            first = next(iter(self._taking), None)
            return share is first and share.owed < full

        if not fits() or self._taking:
            self._wake_sleepers()
            self._taking[share] = None
            try:
                await self.until(fits)
            finally:
                del self._taking[share]
                self._news.wake()  # there is another first one
        self.owe(share, size)

    def has_room(self, size: int) -> bool:
        """Whether a blob of `size` bytes may be owed without a wait."""
        return self.blobs < _MOST_BLOBS and self.owed + size <= self.limit

    async def promise(self, share: Share, *, unless: Callable[[], bool]) -> None:
        """Wait until one blob more may be owed, all of whose bytes are here; raises as `admit`."""

        def fits() -> bool:
            return unless() or (self.blobs < _MOST_BLOBS and self.owed <= self.limit)

        if not fits():
            self._wake_sleepers()
            await self.until(fits)
        self.count(share)

    def count(self, share: Share) -> None:
        """It is promised, whether there was room for that or not."""
        if not share.promised:
            share.promised = True
            self.blobs += share.counted

    async def until(
        self, condition: Callable[[], bool], trouble: Callable[[], Trouble | None] | None = None
    ) -> None:
        """Wait for what sending brings about; raises the trouble that keeps it away too long.

        The uplink's own trouble, unless there is one that is more to the point.
        """
        began = self._clock()
        while not condition():
            found = self.trouble if trouble is None else trouble()
            left = None
            if found is not None:
                left = self._deadline(found, began) - self._clock()
                if left <= 0:
                    raise found.error
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()

    def _deadline(self, trouble: Trouble, began: float) -> float:
        """When patience with it ends, for one who began to wait then."""
        end = max(began, trouble.since) + self._patience
        moved_at = self._clock() if self._sending else self._moved_at
        if isinstance(trouble.error, GatewayTimeout) and moved_at > trouble.since:
            moving = moved_at + _AFTER_MOVING * self._patience
            end = max(end, min(moving, trouble.since + _MOVING * self._patience))
        return end

    def _wake_sleepers(self) -> None:
        for event in self._sleepers:
            event.set()

    # Sending

    @contextmanager
    def sleeping(self, event: asyncio.Event) -> Iterator[None]:
        """Somebody sleeps over past trouble, and holds room: `event` is set when that is wanted."""
        self._sleepers.add(event)
        try:
            yield
        finally:
            self._sleepers.discard(event)

    def moved(self) -> None:
        """Some bytes more are on their way."""
        self._moved_at = self._clock()

    def hurry(self, share: Share) -> None:
        """A client waits for this one: it goes before all that nobody waits for."""
        share.urgent = True

    @asynccontextmanager
    async def turn(self, share: Share, size: int) -> AsyncIterator[None]:
        """Send `size` bytes of a blob meanwhile. Whatever is raised in it: they were not taken."""
        while not (self._has_place(size) and self._comes_first(share)):
            waiter = asyncio.get_running_loop().create_future()
            self._queue[share] = size, waiter
            self._call_next()
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._call_next()  # it was called, and does not come
                raise
            finally:
                self._queue.pop(share, None)
        self._sending += 1
        self._on_way += size
        self._pace.begin(size)
        self._call_next()
        confirmed = False
        try:
            yield
            confirmed = True
        finally:
            self._sending -= 1
            self._on_way -= size
            self._pace.end(size, confirmed=confirmed)
            self._call_next()

    def _has_place(self, size: int) -> bool:
        """Whether so many bytes may set out besides what is on its way."""
        if self._sending == 0:
            return True
        rate = self._pace.rate
        most = _ON_WAY_AT_FIRST if rate is None else rate * _SECONDS_ON_WAY
        return self._sending < _AT_ONCE and self._on_way + size <= most

    def _comes_first(self, share: Share) -> bool:
        """So that a large part, which needs the line for itself, is not passed over for ever."""
        return all(_rank(share) <= _rank(other) for other in self._waiting())

    def _waiting(self) -> list[Share]:
        """Those that were not called yet."""
        return [share for share, (_, waiter) in self._queue.items() if not waiter.done()]

    def _call_next(self) -> None:
        first = min(self._waiting(), key=_rank, default=None)
        if first is not None:
            size, waiter = self._queue[first]
            if self._has_place(size):
                waiter.set_result(None)

    def failed(self, error: RegistryError) -> Trouble:
        """A sending failed for a reason that may pass; since now, or as long as all have."""
        now = self._clock()
        self.trouble = Trouble(error, self.trouble.since if self.trouble is not None else now)
        self._news.wake()
        return Trouble(error, now)

    def is_passable(self, *, since: float) -> bool:
        """Whether somebody got through long after one began to fail, which fails still."""
        return self.trouble is None or self.trouble.since > since + self._patience

    def worked(self) -> None:
        """A sending was confirmed."""
        self.trouble = None
        self._news.wake()

    def changed(self) -> None:
        """Something came about that somebody may wait for with `until`."""
        self._news.wake()


def _rank(share: Share) -> tuple[bool, int]:
    """Who is waited for goes before all others, else who came first."""
    return not share.urgent, share.number


class Uplinks:
    """The uplink of each registry, by its name."""

    def __init__(self, registries: Iterable[str], *, patience: float = PUSH_PATIENCE) -> None:
        self._by_name = {name: Uplink(patience=patience) for name in registries}

    def of(self, registry: str) -> Uplink:
        return self._by_name[registry]

    def owed_bytes(self) -> Mapping[str, float]:
        return {name: uplink.owed for name, uplink in self._by_name.items()}

    def owed_blobs(self) -> Mapping[str, float]:
        return {name: uplink.blobs for name, uplink in self._by_name.items()}
