"""Blobs that clients were told are taken, and that upstream has not got yet.

A blob's 201 means that it is on this proxy's disk; a manifest's 201 means that all of it is
upstream. Between the two the blob is owed: it is kept from eviction, sent as fast as upstream takes
it, written down, so that it is still owed after a crash, and paid before any manifest that names it
is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from proxy.cache import BlobStore, CacheError, Pin, RecordStore
from proxy.cache.layout import blob_key
from proxy.cache.space import Space
from proxy.errors import RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, RepositoryName
from proxy.services.existence import Existence
from proxy.services.leases import Leases
from proxy.services.openings import Openings
from proxy.services.outgoing import ContentLost, UpstreamUpload
from proxy.services.received import StoredContent
from proxy.services.registries import Registries, Target
from proxy.services.transfers import Transfer, is_of_bytes
from proxy.services.uplink import Uplinks
from proxy.upstream import Upload

_log = logging.getLogger(__name__)

_DEBT: Final = "debt"
# A debt that could not be paid for so long, in seconds, is given up: no client waits any more.
_OWED_SECONDS: Final = 24 * 3600.0
# A failure is told to the manifests that name the blob for so long.
_FAILED_SECONDS: Final = 3600.0
_FAILURES: Final = 10_000

_Key = tuple[str, str, Digest]


@dataclass(slots=True, eq=False)
class Debt:
    """A blob that is owed to a repository; `since` by the clock on the wall, in seconds."""

    target: Target
    digest: Digest
    size: int
    transfer: Transfer
    pin: Pin
    record_pin: Pin
    since: float
    written: bool = False


class Owed:
    """Keeps what is owed from the moment on at which a cache directory is opened.

    Less room than before, or another's command, evicts what it can before `Debts` knows of it.
    """

    def __init__(self) -> None:
        self._pins: list[Pin] = []

    async def keep(self, space: Space) -> None:
        """Keep all blobs of which it is written down that they are owed; raises `CacheError`."""
        records = await RecordStore.within(space)
        for registry, repository, digest, _ in await records.all(_DEBT):
            self._pins.append(records.keep(_DEBT, registry, repository, digest))
            self._pins.append(Pin(space, blob_key(Digest.parse(digest))))

    def release(self) -> None:
        """`Debts` keeps them by now."""
        while self._pins:
            self._pins.pop().release()


class Debts:
    """Owes blobs to upstream, and pays.

    Invariant: `_debts` are those that are neither paid nor given up, each with a transfer that
    runs or will; what is in it is pinned.
    """

    def __init__(
        self,
        store: BlobStore,
        records: RecordStore,
        uplinks: Uplinks,
        openings: Openings,
        existence: Existence,
        leases: Leases,
        events: Events,
        *,
        first_pause: float,
    ) -> None:
        """`first_pause`: the seconds before a second attempt."""
        self._store = store
        self._records = records
        self._uplinks = uplinks
        self._openings = openings
        self._events = events
        self._first_pause = first_pause
        self._existence = existence
        self._leases = leases
        self._debts: dict[_Key, Debt] = {}
        self._chores: set[asyncio.Task[None]] = set()
        clock = asyncio.get_running_loop().time
        self._failures: TTLCache[_Key, RegistryError] = TTLCache(_FAILURES, _FAILED_SECONDS, clock)

    async def restore(self, registries: Registries) -> None:
        """Owe again what was owed when the process ended; raises `CacheError`."""
        known = {registry.name: registry for registry in registries.all()}
        owed = await self._records.all(_DEBT, drop=True)
        for name, repository, digest_text, content in owed:
            registry, said = known.get(name), json.loads(content)
            if registry is None:
                await self._leave_waiting(name, repository, digest_text, since=said["since"])
                continue
            target = registries.target(registry, RepositoryName.parse(repository))
            digest = Digest.parse(digest_text)
            debt = self._begin(target, digest, int(said["size"]), since=float(said["since"]))
            debt.written = True
            if self._store.contains(digest):
                debt.transfer.finish(digest, debt.size)
            else:
                # The promise was never given: the record is written before the reply.
                await self.drop(debt)

    async def _leave_waiting(
        self, registry: str, repository: str, digest: str, *, since: float
    ) -> None:
        """It may be configured again soon."""
        if time.time() - since > _OWED_SECONDS:
            await self._records.remove(_DEBT, registry, repository, digest)
            return
        _log.warning(
            "blobs are owed to %s, which is not configured any more: they wait for it", registry
        )

    async def close(self) -> None:
        """Stop; what is not paid is owed again after the next start."""
        # Out of sight first: what is written down of them stays.
        debts, self._debts = list(self._debts.values()), {}
        for debt in debts:
            await debt.transfer.cancel(upstream=False)
            debt.pin.release()
            debt.record_pin.release()
        if self._chores:
            await asyncio.wait(self._chores)

    # What is owed

    def find(self, target: Target, digest: Digest) -> Debt | None:
        return self._debts.get((*target.key, digest))

    def has(self, target: Target, digest: Digest) -> bool:
        """Whether the blob is owed to the repository: it is on disk then, and not upstream."""
        return (*target.key, digest) in self._debts

    def transfer(self, upload: UpstreamUpload) -> Transfer:
        """A transfer for a blob that is about to be received."""
        return Transfer(
            upload,
            self._uplinks.of(upload.target.registry.name),
            self._events,
            first_pause=self._first_pause,
        )

    def begin(self, target: Target, digest: Digest, size: int, transfer: Transfer) -> Debt:
        """Owe a blob that is on disk, or is about to be, and that the transfer sends."""
        return self._begin(target, digest, size, transfer=transfer, since=time.time())

    async def write_down(self, debt: Debt) -> None:
        """Make it outlive a crash; raises `CacheError` where that cannot be."""
        content = json.dumps({"size": debt.size, "since": debt.since}).encode()
        await self._records.put(_DEBT, *debt.target.key, debt.digest, content)
        debt.written = True
        if not self.has(debt.target, debt.digest):
            await self._forget(debt)  # paid in the meantime

    def owe_stored(
        self, target: Target, digest: Digest, upload: Upload | None = None
    ) -> Debt | None:
        """Owe a blob that is on disk, in an upload if there is one; None if it is not on disk.

        Whether the repository may have it is the caller's business.
        """
        known = self.find(target, digest)
        if known is not None:
            return known
        found = self._store.find(digest)
        if found is None:
            return None
        with found:
            debt = self._begin(target, digest, found.size, since=time.time(), upload=upload)
        debt.transfer.finish(digest, debt.size)
        return debt

    def has_room(self, target: Target, digest: Digest) -> bool:
        """Whether a blob on disk can be owed, too: as far as clients may run ahead of upstream."""
        found = self._store.find(digest)
        if found is None:
            return False
        with found:
            return self._uplinks.of(target.registry.name).has_room(found.size)

    async def pay(self, target: Target, digests: Iterable[Digest]) -> None:
        """Wait until none of these blobs is owed any more.

        Raises what upstream refused one with, or trouble that does not pass.
        """
        # All are hurried before the first is waited for.
        owed = [debt for digest in digests if (debt := self.find(target, digest)) is not None]
        for debt in owed:
            debt.transfer.hurry()
        for debt in owed:
            await debt.transfer.settled()
        for digest in digests:
            failure = self._failures.get((*target.key, digest))
            if failure is not None and not self._is_there(target, digest):
                raise failure.with_traceback(None)  # or it would hold all whom it was told

    def _is_there(self, target: Target, digest: Digest) -> bool:
        """Whether upstream has been heard to have it after all, by somebody else's doing."""
        fact = self._existence.find(target, digest)
        return fact is not None and fact.exists

    async def drop(self, debt: Debt) -> None:
        """Owe it no more, though it is not paid; whoever waits for it is told so."""
        if self._debts.get((*debt.target.key, debt.digest)) is not debt:
            return
        del self._debts[*debt.target.key, debt.digest]
        try:
            await debt.transfer.cancel()
        finally:
            debt.pin.release()
            await self._forget(debt)

    async def forgive(self, target: Target, digest: Digest) -> bool:
        """Owe a blob no more that a client deletes; whether that was all there was to delete.

        One that upstream may have taken already is paid first. Broken off, it could turn up there
        after the client has heard that it is gone. Raises trouble that does not pass.
        """
        debt = self.find(target, digest)
        if debt is None:
            return False
        if debt.transfer.may_be_upstream:
            try:
                await debt.transfer.settled()
            except RegistryError as error:
                if error is not debt.transfer.failure:
                    raise
            return False
        await self.drop(debt)
        return True

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is owed, so long at most."""
        try:
            async with asyncio.timeout(seconds):
                for debt in list(self._debts.values()):
                    await debt.transfer.over()
        except TimeoutError:
            _log.warning(
                "%d blobs are still owed upstream: they are sent after the next start",
                len(self._debts),
            )

    async def expire(self) -> None:
        """Give up what could not be paid for a day."""
        now = time.time()
        for debt in list(self._debts.values()):
            if now - debt.since > _OWED_SECONDS:
                registry, repository = debt.target.key
                detail = "upstream has not taken it for a day: it is owed no more"
                self._events.emit(
                    Event(Kind.TROUBLE, registry, repository, debt.digest, debt.size, detail)
                )
                await self.drop(debt)

    def paid(self, target: Target, digest: Digest, size: int) -> None:
        """Upstream has just taken a blob, owed or not."""
        self._failures.pop((*target.key, digest), None)
        self._existence.add(target, digest, size)
        self._leases.hold(target, digest, confirmed=True)  # until its manifest is there
        registry, repository = target.key
        self._events.emit(Event(Kind.PUSHED_BLOB, registry, repository, digest, size))

    # Beginning and end

    def _begin(
        self,
        target: Target,
        digest: Digest,
        size: int,
        *,
        since: float,
        transfer: Transfer | None = None,
        upload: Upload | None = None,
    ) -> Debt:
        if transfer is None:
            content = StoredContent(self._store, digest)
            transfer = self.transfer(UpstreamUpload(target, self._openings, upload, content))
            transfer.owe(size)
        debt = Debt(
            target,
            digest,
            size,
            transfer,
            pin=self._store.keep(digest),
            record_pin=self._records.keep(_DEBT, *target.key, digest),
            since=since,
        )
        self._failures.pop((*target.key, digest), None)
        self._debts[*target.key, digest] = debt
        transfer.count()
        transfer.when_over(lambda: self._settle(debt))
        return debt

    def _settle(self, debt: Debt) -> None:
        """Its transfer has ended."""
        key = (*debt.target.key, debt.digest)
        if self._debts.get(key) is not debt:
            return
        registry, repository = debt.target.key
        failure = debt.transfer.failure
        if failure is None:
            self.paid(debt.target, debt.digest, debt.size)
        else:
            self._failures[key] = failure
            self._existence.drop(debt.target, debt.digest)
            detail = f"upstream refuses a blob that was taken here: {failure.message}"
            self._events.emit(
                Event(Kind.TROUBLE, registry, repository, debt.digest, debt.size, detail)
            )
        del self._debts[key]
        debt.pin.release()
        chore = asyncio.ensure_future(self._forget(debt))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _forget(self, debt: Debt) -> None:
        """Remove what was written down of it, and the blob if it cannot be read, or is read as
        other bytes: as long as it is there, no push brings better ones.
        """
        debt.record_pin.release()
        failure = debt.transfer.failure
        if failure is not None and (isinstance(failure, ContentLost) or is_of_bytes(failure)):
            await self._store.remove(debt.digest)
        if not debt.written:
            return
        try:
            await self._records.remove(_DEBT, *debt.target.key, debt.digest)
        except CacheError as error:
            # After the next start it is sent once more, which does no harm.
            _log.warning("%s", error)
