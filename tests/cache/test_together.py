"""Everything at once on a budget that is too small, with readers that come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from proxy.cache import Fill, FillFailed, NoSpace, RecordStore
from proxy.errors import BlobUnknown
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache
from tests.cache.sources import ByteSource

_BUDGET = 5 * MIB


class Load:
    """What clients do, drawn at random; every byte that one gets is compared."""

    def __init__(self, cache: Cache, seed: int) -> None:
        self.cache = cache
        self.random = random.Random(seed)
        sizes = [0, 1, 5000, 65_536, 300_000, 900_000, 1_500_000, 7_000_000]
        self.blobs = {
            Digest.of(b): b for n in sizes for b in (self.random.randbytes(n) for _ in "ab")
        }
        self.fills: list[Fill] = []
        self.names = 0

    async def client(self, records: RecordStore) -> None:
        acts: list[Callable[[Digest, bytes], Awaitable[None]]] = [
            *(self.read, self.read, self.read, self.break_off),
            *(self.push, self.pull_from_disk, self.remove, self.look_after),
        ]
        for _ in range(12):
            if self.random.random() < 0.2:
                kind = self.random.choice(["manifest", "alias"])
                await records.put(kind, "r", "n", str(self.random.randrange(5)), b"x" * 9000)
            await self.random.choice(acts)(*self.random.choice(list(self.blobs.items())))
            budget = self.cache.store
            assert budget.used_bytes + budget.reserved_bytes <= _BUDGET

    async def read(self, digest: Digest, blob: bytes) -> None:
        cuts = [self.random.randrange(1, len(blob))] if len(blob) > 1 else []
        source = ByteSource(blob, cuts=cuts, tells_total=self.random.random() < 0.7)
        if not source.tells_total:
            source.cuts.clear()
        start = self.random.randrange(len(blob) + 1) if self.random.random() < 0.3 else 0
        leaves_after = self.random.randrange(1, 40)
        got = bytearray()
        whole = True
        fill = self.cache.store.fill(digest, source)
        self.fills.append(fill)
        try:
            async with aclosing(fill.reader(start)) as pieces:
                async for piece in pieces:
                    got += piece
                    leaves_after -= 1
                    if leaves_after == 0:
                        whole = False
                        break
        except FillFailed:
            if fill.source is source:
                raise
            whole = False  # the one that was joined has broken off
        assert got == (blob[start:] if whole else blob[start : start + len(got)])

    async def break_off(self, digest: Digest, blob: bytes) -> None:
        """A source that breaks off for good: what came of it is gone on with."""
        source = ByteSource(blob, refuses=None, cuts=[max(1, len(blob) * 3 // 4)])
        fill = self.cache.store.fill(digest, source)
        self.fills.append(fill)
        try:
            async with aclosing(fill.reader()) as pieces:
                async for _ in pieces:
                    source.refuses = BlobUnknown("it was deleted")
        except (FillFailed, BlobUnknown):
            pass

    async def look_after(self, _: Digest, __: bytes) -> None:
        store = self.cache.store
        match self.random.randrange(4):
            case 0:
                audit = await store.audit()
                assert (audit.missing, audit.found) == (0, 0)
            case 1:
                assert {checked.problem async for checked in store.verify()} <= {""}
            case 2:
                await store.shrink(self.random.randrange(_BUDGET))
            case _:
                await store.tend()

    async def push(self, digest: Digest, blob: bytes) -> None:
        self.names += 1
        try:
            spool = await self.cache.store.create_spool(f"s{self.names}")
        except NoSpace:
            return
        try:
            for start in range(0, len(blob), 200_000):
                await spool.append(blob[start : start + 200_000])
            if self.random.random() < 0.8:
                await spool.publish(digest)
        except NoSpace:
            pass
        finally:
            await spool.discard()

    async def pull_from_disk(self, digest: Digest, blob: bytes) -> None:
        pin = self.cache.store.find(digest)
        if pin is not None:
            with pin:
                await asyncio.sleep(0)
                assert pin.size == len(blob)
                assert pin.path.read_bytes() == blob

    async def remove(self, digest: Digest, _: bytes) -> None:
        await self.cache.store.remove(digest)


@pytest.mark.parametrize("seed", range(8))
async def test_every_byte_is_right_and_the_sums_come_out(cache: Cache, seed: int) -> None:
    await cache.close()
    cache.budget = _BUDGET
    await cache.open(abandon_below=(seed % 2) * 500_000)
    load = Load(cache, seed)
    records = await RecordStore.open(cache.store)
    clients = [asyncio.create_task(load.client(records)) for _ in range(10)]
    killed = clients[:3]
    for client in killed:
        for _ in range(load.random.randrange(200)):
            await asyncio.wait([client], timeout=0)
        client.cancel()
    results = await asyncio.gather(*clients, return_exceptions=True)
    assert [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)] == []
    await asyncio.gather(*(fill.close() for fill in load.fills))
    assert cache.store.reserved_bytes == 0
    assert Kind.CORRUPT not in cache.kinds()
    assert Kind.TROUBLE not in cache.kinds()
    if seed % 4 < 2:
        await cache.close()
    else:
        await cache.crash()
    assert cache.disk_bytes() <= _BUDGET
    await cache.open()
    assert cache.store.used_bytes == cache.disk_bytes() <= _BUDGET
    assert not [name for name in cache.files() if name.startswith("uploads/")]
    for partial in (cache.directory / "incoming").iterdir():
        digest = Digest.parse(partial.name.replace("-", ":"))
        assert load.blobs[digest].startswith(partial.read_bytes())
    for digest, blob in load.blobs.items():
        await load.pull_from_disk(digest, blob)
