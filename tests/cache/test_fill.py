"""A blob on its way into the cache, and those who read it meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.cache import FillFailed
from proxy.errors import BlobUnknown
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect, collect_into
from tests.cache.sources import ByteSource

BLOB = os.urandom(3 * MIB + 17)
DIGEST = Digest.of(BLOB)


async def test_a_reader_gets_all_bytes_and_the_blob_is_found_afterwards(cache: Cache) -> None:
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    assert await fill.total() == len(BLOB)
    assert await collect(fill.reader()) == BLOB
    assert fill.is_whole
    await cache.stored(DIGEST)
    with cache.store.find(DIGEST) or pytest.fail("not found") as pin:
        assert pin.size == len(BLOB)
        assert pin.path.read_bytes() == BLOB
    assert source.opened == [0]
    assert source.open_now == 0
    assert Kind.STORED in cache.kinds()


async def test_the_first_bytes_are_there_before_the_source_goes_on(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(1000)
    async with aclosing(cache.store.fill(DIGEST, source).reader()) as pieces:
        assert await anext(pieces) == BLOB[:1000]
        await gate.reached.wait()
        gate.go.set()
        assert await collect(pieces) == BLOB[1000:]


async def test_the_size_is_known_before_the_first_byte(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(0)
    fill = cache.store.fill(DIGEST, source)
    assert await fill.total() == len(BLOB)
    gate.go.set()
    assert await collect(fill.reader()) == BLOB


async def test_a_crowd_costs_one_opening_of_the_source(cache: Cache) -> None:
    source = ByteSource(BLOB)
    fills = [cache.store.fill(DIGEST, source) for _ in range(32)]
    assert all(fill is fills[0] for fill in fills)
    bodies = await asyncio.gather(*(collect(fill.reader()) for fill in fills))
    assert all(body == BLOB for body in bodies)
    assert source.opened == [0]


async def test_a_reader_that_joins_late_gets_everything(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(2 * MIB)
    fill = cache.store.fill(DIGEST, source)
    await gate.reached.wait()
    late = asyncio.create_task(collect(cache.store.fill(DIGEST, ByteSource(b"")).reader()))
    gate.go.set()
    assert await late == BLOB
    assert await collect(fill.reader()) == BLOB


async def test_a_reader_that_begins_after_the_end_reads_from_disk(cache: Cache) -> None:
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    reader = fill.reader()
    await cache.stored(DIGEST)
    assert await collect(reader) == BLOB
    assert await collect(fill.reader(5, 10)) == BLOB[5:10]
    assert source.opened == [0]


async def test_a_reader_that_begins_after_an_eviction_reads_from_the_source(cache: Cache) -> None:
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    await cache.stored(DIGEST)
    assert await cache.store.remove(DIGEST)
    assert await collect(fill.reader(7)) == BLOB[7:]
    assert source.opened == [0, 7]


async def test_a_fill_of_a_blob_on_disk_asks_no_source(cache: Cache) -> None:
    await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    await cache.stored(DIGEST)
    unused = ByteSource(b"")
    fill = cache.store.fill(DIGEST, unused)
    assert fill.is_whole
    assert await fill.total() == len(BLOB)
    assert await collect(fill.reader(3)) == BLOB[3:]
    assert unused.opened == []


async def test_the_tail_is_withheld_until_the_digest_is_verified(cache: Cache) -> None:
    wrong = BLOB[:-1] + bytes([BLOB[-1] ^ 1])
    got = bytearray()
    with pytest.raises(FillFailed, match=DIGEST):
        await collect_into(got, cache.store.fill(DIGEST, ByteSource(wrong)).reader())
    assert len(got) < len(wrong)
    assert wrong.startswith(got)
    assert Kind.CORRUPT in cache.kinds()
    assert Kind.STORED not in cache.kinds()
    assert cache.files() == []
    assert cache.store.reserved_bytes == 0


async def test_after_a_wrong_digest_the_next_fill_begins_anew(cache: Cache) -> None:
    with pytest.raises(FillFailed):
        await collect(cache.store.fill(DIGEST, ByteSource(b"x" * len(BLOB))).reader())
    assert not cache.store.is_filling(DIGEST)
    assert not cache.store.contains(DIGEST)
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB


@pytest.mark.parametrize("start", [0, MIB])
async def test_every_reader_at_the_tail_of_a_wrong_blob_fails(cache: Cache, start: int) -> None:
    source = ByteSource(bytes(len(BLOB)))
    gate = source.gate(2 * MIB)
    fill = cache.store.fill(DIGEST, source)
    readers = [asyncio.create_task(collect(fill.reader(start))) for _ in range(3)]
    early = asyncio.create_task(collect(fill.reader(10, 20)))
    assert await early == bytes(10)  # ends before the tail: nothing can protect it
    gate.go.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(result).__mro__[1] for result in results] == [FillFailed] * 3


@pytest.mark.parametrize("says", [len(BLOB) - 1, len(BLOB) + 1, 0])
async def test_a_wrong_size_is_never_stored(cache: Cache, says: int) -> None:
    fill = cache.store.fill(DIGEST, ByteSource(BLOB, says=says))
    with pytest.raises(FillFailed, match=DIGEST):
        await collect(fill.reader())
    assert not cache.store.contains(DIGEST)
    # To promise more than comes is also what a source does that breaks off.
    assert (cache.files() == []) is (says < len(BLOB))
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB


EDGES = [1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, MIB, len(BLOB) - 16 * 1024, len(BLOB) - 1]


@pytest.mark.parametrize("cut", EDGES)
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_source_that_breaks_is_asked_again_from_there(
    cache: Cache, cut: int, ranges: bool
) -> None:
    source = ByteSource(BLOB, cuts=[cut], ranges=ranges)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0, cut]
    assert source.open_now == 0


async def test_a_source_that_ends_early_is_asked_again(cache: Cache) -> None:
    source = ByteSource(BLOB, ends=[MIB])
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0, MIB]


async def test_progress_renews_the_patience_with_a_source(cache: Cache) -> None:
    cuts = list(range(MIB, 3 * MIB, MIB // 4))
    source = ByteSource(BLOB, cuts=cuts.copy())
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0, *cuts]


async def test_a_source_that_is_given_up_stores_nothing(cache: Cache) -> None:
    source = ByteSource(BLOB, cuts=[MIB])
    gate = source.gate(MIB)
    reading = asyncio.create_task(collect(cache.store.fill(DIGEST, source).reader()))
    await gate.reached.wait()
    source.refuses = BlobUnknown("it was deleted")
    gate.go.set()
    with pytest.raises(FillFailed, match=rf"{DIGEST} broke off after {MIB} of {len(BLOB)} bytes"):
        await reading
    assert source.opened == [0, MIB]
    assert not cache.store.contains(DIGEST)
    assert cache.store.reserved_bytes == 0


async def test_what_the_source_raises_first_reaches_everybody_unchanged(cache: Cache) -> None:
    refusal = BlobUnknown("no such blob")
    source = ByteSource(b"", refuses=refusal)
    fill = cache.store.fill(DIGEST, source)
    asked = [fill.total(), fill.total(), collect(fill.reader())]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(result is refusal for result in results)
    assert source.opened == [0]
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB


async def test_a_failed_fill_is_out_of_the_way_when_its_readers_hear_of_it(cache: Cache) -> None:
    fill = cache.store.fill(DIGEST, ByteSource(b"", refuses=BlobUnknown("no such blob")))
    with pytest.raises(BlobUnknown):
        await fill.total()
    assert not cache.store.is_filling(DIGEST)


async def test_readers_that_leave_change_nothing(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(MIB)
    fill = cache.store.fill(DIGEST, source)
    async with aclosing(fill.reader()) as pieces:
        await anext(pieces)
    waiting = asyncio.create_task(collect(fill.reader()))
    waiting_for_total = asyncio.create_task(fill.total())
    await gate.reached.wait()
    waiting.cancel()
    waiting_for_total.cancel()
    await asyncio.gather(waiting, waiting_for_total, return_exceptions=True)
    gate.go.set()
    await cache.stored(DIGEST)
    assert source.opened == [0]
    assert cache.store.reserved_bytes == 0


async def test_a_reader_that_never_reads_on_holds_nobody_up(cache: Cache) -> None:
    fill = cache.store.fill(DIGEST, ByteSource(BLOB))
    async with aclosing(fill.reader()) as idle:
        first = await anext(idle)
        assert await collect(fill.reader()) == BLOB
        await cache.stored(DIGEST)
        assert first + await collect(idle) == BLOB


async def test_a_blob_that_is_being_read_is_not_evicted_after_its_fill(cache: Cache) -> None:
    await cache.reopen(budget=5 * MIB)
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    other = os.urandom(3 * MIB)
    async with aclosing(fill.reader()) as pieces:
        first = await anext(pieces)
        await cache.stored(DIGEST)
        assert (
            await collect(cache.store.fill(Digest.of(other), ByteSource(other)).reader()) == other
        )
        assert Kind.EVICTED not in cache.kinds()
        assert Kind.BYPASS in cache.kinds()
        assert first + await collect(pieces) == BLOB
    assert source.opened == [0]
    await collect(cache.store.fill(Digest.of(other), ByteSource(other)).reader())
    assert Kind.EVICTED in cache.kinds()


async def test_ranges_are_served_as_soon_as_their_bytes_are_there(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(2 * MIB)
    fill = cache.store.fill(DIGEST, source)
    assert await collect(fill.reader(MIB, MIB + 10)) == BLOB[MIB : MIB + 10]
    assert await collect(fill.reader(5, 2 * MIB)) == BLOB[5 : 2 * MIB]
    assert await collect(fill.reader(5, 5)) == b""
    assert not gate.go.is_set()
    last = asyncio.create_task(collect(fill.reader(len(BLOB) - 10, len(BLOB) + 99)))
    gate.go.set()
    assert await last == BLOB[-10:]
    assert source.opened == [0]


async def test_a_range_far_ahead_goes_straight_to_the_source(cache: Cache) -> None:
    blob = os.urandom(18 * MIB)
    source = ByteSource(blob)
    gate = source.gate(MIB)
    fill = cache.store.fill(Digest.of(blob), source)
    await collect(fill.reader(0, MIB))
    far = 17 * MIB + 1
    assert await collect(fill.reader(far, far + 70_000)) == blob[far : far + 70_000]
    assert await collect(fill.reader(far)) == blob[far:]
    assert source.opened == [0, far, far]
    assert source.open_now == 1
    gate.go.set()
    assert await collect(fill.reader()) == blob


@pytest.mark.parametrize("tells", [True, False])
async def test_a_source_that_does_not_tell_the_size_is_stored_all_the_same(
    cache: Cache, tells: bool
) -> None:
    fill = cache.store.fill(DIGEST, ByteSource(BLOB, tells_total=tells))
    assert await fill.total() == (len(BLOB) if tells else None)
    assert await collect(fill.reader()) == BLOB
    assert await fill.total() == len(BLOB)
    await cache.stored(DIGEST)
    assert cache.store.reserved_bytes == 0


async def test_without_a_size_the_tail_is_withheld_too(cache: Cache) -> None:
    source = ByteSource(bytes(len(BLOB)), tells_total=False)
    got = bytearray()
    with pytest.raises(FillFailed):
        await collect_into(got, cache.store.fill(DIGEST, source).reader())
    assert len(got) < len(BLOB)


async def test_a_size_known_beforehand_stands_in_for_the_sources(cache: Cache) -> None:
    source = ByteSource(BLOB, tells_total=False)
    fill = cache.store.fill(DIGEST, source, size=len(BLOB))
    assert await fill.total() == len(BLOB)
    assert await collect(fill.reader()) == BLOB


async def test_sha512_names_a_blob_as_well(cache: Cache) -> None:
    digest = Digest.of(BLOB, "sha512")
    assert await collect(cache.store.fill(digest, ByteSource(BLOB)).reader()) == BLOB
    await cache.stored(digest)
    await cache.reopen()
    assert cache.store.contains(digest)


@pytest.mark.parametrize("tells", [True, False])
async def test_the_empty_blob_is_a_blob(cache: Cache, tells: bool) -> None:
    digest = Digest.of(b"")
    fill = cache.store.fill(digest, ByteSource(b"", tells_total=tells))
    assert await collect(fill.reader()) == b""
    await cache.stored(digest)
    with pytest.raises(FillFailed):
        await collect(cache.store.fill(DIGEST, ByteSource(b"", tells_total=tells)).reader())


SIZES = st.one_of(
    st.integers(0, 300_000),
    st.sampled_from([k * 65536 + d for k in (1, 4, 16, 17) for d in (-1, 0, 1)]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_any_range_of_any_size_in_any_pieces_is_right(
    cache: Cache, data: st.DataObject
) -> None:
    size = data.draw(SIZES)
    blob = os.urandom(size)
    source = ByteSource(
        blob,
        chunk=data.draw(st.sampled_from([1000, 16384, 65536, 300_000])),
        cuts=data.draw(st.lists(st.integers(1, max(1, size - 1)), max_size=3, unique=True)),
        tells_total=data.draw(st.booleans()),
        ranges=data.draw(st.booleans()),
    )
    if not source.tells_total:
        source.cuts.clear()
    fill = cache.store.fill(Digest.of(blob), source)
    ranges = data.draw(
        st.lists(st.tuples(st.integers(0, size), st.integers(0, size + 5)), max_size=4)
    )
    bodies = await asyncio.gather(
        collect(fill.reader()), *(collect(fill.reader(a, max(a, b))) for a, b in ranges)
    )
    assert bodies == [blob, *(blob[a : max(a, b)] for a, b in ranges)]
    await cache.stored(Digest.of(blob))
    await cache.store.remove(Digest.of(blob))


async def test_closing_the_store_ends_a_fill_and_its_readers(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(MIB)
    fill = cache.store.fill(DIGEST, source)
    readers = [asyncio.create_task(collect(fill.reader())) for _ in range(3)]
    readers.append(asyncio.create_task(collect(fill.reader(2 * MIB))))
    await gate.reached.wait()
    before = asyncio.all_tasks()
    await cache.close()
    for reader in readers:
        with pytest.raises(FillFailed, match=DIGEST):
            await reader
    assert source.open_now == 0
    assert asyncio.all_tasks() <= before


async def test_closing_the_store_in_any_phase_of_a_fill_leaves_what_is_accounted_for(
    cache: Cache,
) -> None:
    for rounds in range(60):
        fill = cache.store.fill(DIGEST, ByteSource(BLOB))
        reader = asyncio.create_task(collect(fill.reader()))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await cache.close()
        result = (await asyncio.gather(reader, return_exceptions=True))[0]
        assert result == BLOB or isinstance(result, FillFailed)
        await cache.open()
        assert cache.store.used_bytes == cache.disk_bytes()
        stored = [f"blobs/sha256/{DIGEST.hex[:2]}/{DIGEST.hex}"]
        assert cache.files() in ([], stored, [f"incoming/sha256-{DIGEST.hex}"])
        await cache.store.remove(DIGEST)


async def test_blobs_that_are_being_made_durable_hold_nobody_up(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write a large file down may keep a slow disk busy for seconds."""
    go = threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        assert go.wait(60)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    blobs = [os.urandom(100_000) for _ in range(20)]
    fills = [cache.store.fill(Digest.of(blob), ByteSource(blob)) for blob in blobs]
    # All of their readers have everything, and others can still begin, and read.
    assert await asyncio.gather(*(collect(fill.reader()) for fill in fills)) == blobs
    fill = cache.store.fill(DIGEST, ByteSource(BLOB))
    assert await collect(fill.reader()) == BLOB
    assert Kind.STORED not in cache.kinds()
    go.set()
    await asyncio.gather(*(each.ended() for each in (*fills, fill)))
    assert cache.kinds().count(Kind.STORED) == 21
