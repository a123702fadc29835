"""The uploads that clients have open: what each has received, and how many are whose."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.cache import Spool
from proxy.errors import RangeInvalid, TooManyRequests
from proxy.refusals import Reason, Refusals
from proxy.services.received import OnDisk
from proxy.services.registries import Target
from proxy.services.straight import Straight


@dataclass(slots=True, eq=False)
class Session:
    """One upload, begun by `client`. `lock` is held by whoever changes any of it.

    `is_lost`: what of it is upstream is not known any more, nor is it here.
    """

    name: str
    target: Target
    client: str
    received: OnDisk | Straight
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    last_used: float = field(default_factory=time.monotonic)
    is_lost: bool = False

    @property
    def size(self) -> int:
        """The bytes received so far."""
        return self.received.size

    def check_offset(self, offset: int | None) -> None:
        """Raise `RangeInvalid` for a chunk that begins elsewhere than where the upload stands."""
        size = self.size
        if offset is not None and offset != size:
            raise RangeInvalid(
                f"this chunk begins at byte {offset}, but the upload to "
                f"{self.target.repository} stands at {size}",
                headers={"Range": f"0-{max(0, size - 1)}"},
            )

    def resume(self) -> None:
        """A client goes on with it: what it has sent counts."""
        if isinstance(self.received, OnDisk):
            self.received.transfer.resume()

    def pause(self) -> None:
        """It keeps nobody else waiting."""
        if isinstance(self.received, OnDisk):
            self.received.transfer.pause()

    async def receive(self, body: AsyncIterator[bytes], check_size: Callable[[int], None]) -> None:
        """Take a body in; it goes upstream meanwhile, and never runs far ahead of that.

        `check_size` raises for an upload of too many bytes.
        """
        async for chunk in body:
            check_size(self.size + len(chunk))
            spool = None
            if isinstance(self.received, OnDisk):
                if await self.received.append(chunk):
                    continue
                # The disk is full: what upstream has not got goes on through memory, unstored.
                spool = self.received.spool
                self.received = Straight(await self.received.transfer.halt())
            try:
                if spool is not None:
                    await _leave_disk(spool, self.received)
                await self.received.append(chunk)
            except BaseException:
                # The client has to begin anew, and hears so from now on.
                self.is_lost = True
                raise


async def _leave_disk(spool: Spool, straight: Straight) -> None:
    try:
        # All of it may be owed, after a restart or a failure.
        async for piece in spool.read(straight.size, spool.size):
            await straight.append(piece)
    finally:
        await spool.discard()


class Sessions:
    """Those that are open, by their names.

    Invariant: `_counts` counts them by their clients, and those that are about to be opened.
    """

    def __init__(self, most: int, refusals: Refusals) -> None:
        """`most`: how many one client may have."""
        self._most = most
        self._refusals = refusals
        self._by_name: dict[str, Session] = {}
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there are, those included that are about to be opened."""
        return self._counts.total()

    def all(self) -> list[Session]:
        return list(self._by_name.values())

    def find(self, name: str) -> Session | None:
        return self._by_name.get(name)

    def has(self, session: Session) -> bool:
        """Whether it has not ended."""
        return self._by_name.get(session.name) is session

    @contextmanager
    def room(self, client: str) -> Iterator[None]:
        """Count one that is about to be opened; raises `TooManyRequests`."""
        count = self._counts[client]
        if count >= self._most:
            self._refusals.count(Reason.UPLOADS_PER_CLIENT)
            raise TooManyRequests(
                f"{client or 'this client'} has {count} uploads open, as many as "
                "max-uploads-per-client allows: finish or cancel some, or ask again later; those "
                "that are left alone end after an hour",
                headers={"Retry-After": "10"},
            )
        self._counts[client] += 1
        try:
            yield
        finally:
            self._less(client)

    def add(self, session: Session) -> None:
        """One that is open, whether its client may have one more or not."""
        self._by_name[session.name] = session
        self._counts[session.client] += 1

    def remove(self, session: Session) -> None:
        """It has ended, if it had not before."""
        if self.has(session):
            del self._by_name[session.name]
            self._less(session.client)

    def _less(self, client: str) -> None:
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]
