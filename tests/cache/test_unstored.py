"""Blobs that find no room, or a disk that refuses them: readers are served on from the source."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import pytest

from proxy.cache import FillFailed
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect, collect_into
from tests.cache.sources import ByteSource

BLOB = os.urandom(3 * MIB + 17)
DIGEST = Digest.of(BLOB)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond `size` bytes in a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_blob_larger_than_the_budget_streams_through(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    assert await fill.total() == len(BLOB)
    bodies = await asyncio.gather(*(collect(fill.reader()) for _ in range(3)))
    assert bodies == [BLOB] * 3
    assert await collect(fill.reader(MIB, MIB + 5)) == BLOB[MIB : MIB + 5]
    assert cache.kinds() == [Kind.BYPASS]
    assert cache.files() == []
    assert cache.store.reserved_bytes == 0
    assert source.open_now == 0


async def test_a_hopeless_blob_evicts_nothing(cache: Cache) -> None:
    await cache.reopen(budget=2 * MIB)
    small = os.urandom(MIB)
    await collect(cache.store.fill(Digest.of(small), ByteSource(small)).reader())
    await cache.stored(Digest.of(small))
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
    assert cache.store.contains(Digest.of(small))


async def test_when_all_is_pinned_a_blob_streams_through(cache: Cache) -> None:
    await cache.reopen(budget=4 * MIB)
    await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    await cache.stored(DIGEST)
    other = os.urandom(2 * MIB)
    with cache.store.find(DIGEST) or pytest.fail("not found"):
        fill = cache.store.fill(Digest.of(other), ByteSource(other))
        assert await collect(fill.reader()) == other
        assert cache.store.contains(DIGEST)
    await collect(cache.store.fill(Digest.of(other), ByteSource(other)).reader())
    await cache.stored(Digest.of(other))
    assert not cache.store.contains(DIGEST)


async def test_a_wrong_blob_that_streams_through_breaks_off_too(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    got = bytearray()
    with pytest.raises(FillFailed, match=DIGEST):
        await collect_into(got, cache.store.fill(DIGEST, ByteSource(bytes(len(BLOB)))).reader())
    assert len(got) < len(BLOB)
    assert Kind.CORRUPT in cache.kinds()


async def test_a_blob_that_streams_through_is_resumed_as_well(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    # The stream that is opened for the size alone gives no byte.
    source = ByteSource(BLOB, cuts=[MIB + 1])
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0, 0, MIB + 1]


async def test_a_blob_that_outgrows_the_budget_goes_on_from_the_source(cache: Cache) -> None:
    await cache.reopen(budget=2 * MIB)
    source = ByteSource(BLOB, tells_total=False)
    fill = cache.store.fill(DIGEST, source)
    async with aclosing(fill.reader()) as slow:
        first = await anext(slow)
        assert await collect(fill.reader()) == BLOB
        assert Kind.BYPASS in cache.kinds()
        assert first + await collect(slow) == BLOB
    assert source.opened[0] == 0
    assert all(MIB < start < 2 * MIB for start in source.opened[1:])
    assert cache.files() == []
    assert cache.store.reserved_bytes == 0


async def test_a_wrong_blob_that_outgrows_the_budget_breaks_off_too(cache: Cache) -> None:
    await cache.reopen(budget=2 * MIB)
    source = ByteSource(bytes(len(BLOB)), tells_total=False)
    got = bytearray()
    with pytest.raises(FillFailed, match=DIGEST):
        await collect_into(got, cache.store.fill(DIGEST, source).reader())
    assert 2 * MIB < len(got) < len(BLOB)


async def test_a_disk_that_refuses_a_write_costs_no_reader_anything(cache: Cache) -> None:
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    with largest_file(MIB + 100):
        readers = [asyncio.create_task(collect(fill.reader(start))) for start in (0, 0, 77)]
        bodies = await asyncio.gather(*readers)
    assert bodies == [BLOB, BLOB, BLOB[77:]]
    assert Kind.TROUBLE in cache.kinds()
    assert not cache.store.contains(DIGEST)
    assert cache.files() == []
    assert cache.store.reserved_bytes == 0
    # By itself it comes right again.
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
    await cache.stored(DIGEST)


async def test_a_wrong_blob_on_a_disk_that_refuses_breaks_off_too(cache: Cache) -> None:
    got = bytearray()
    with largest_file(MIB + 100), pytest.raises(FillFailed, match=DIGEST):
        await collect_into(got, cache.store.fill(DIGEST, ByteSource(bytes(len(BLOB)))).reader())
    assert len(got) < len(BLOB)


@pytest.mark.parametrize("missing", ["incoming", "blobs"])
async def test_a_directory_that_vanishes_costs_no_reader_anything(
    cache: Cache, missing: str
) -> None:
    shutil.rmtree(cache.directory / missing)
    (cache.directory / missing).write_bytes(b"")
    fill = cache.store.fill(DIGEST, ByteSource(BLOB))
    assert await collect(fill.reader()) == BLOB
    await cache.heard(Kind.TROUBLE)
    assert not cache.store.contains(DIGEST)
    assert await collect(fill.reader(9)) == BLOB[9:]
    assert cache.store.reserved_bytes == 0


async def test_a_file_that_vanishes_is_read_from_the_source(cache: Cache) -> None:
    await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    await cache.stored(DIGEST)
    shutil.rmtree(cache.directory / "blobs" / "sha256")
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
    assert Kind.TROUBLE in cache.kinds()


async def test_a_file_that_was_cut_short_is_never_taken_for_whole(cache: Cache) -> None:
    await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    await cache.stored(DIGEST)
    with cache.store.find(DIGEST) or pytest.fail("not found") as pin:
        os.truncate(pin.path, MIB)
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
    assert Kind.TROUBLE in cache.kinds()


async def test_readers_that_leave_a_blob_that_streams_through_close_their_source(
    cache: Cache,
) -> None:
    await cache.reopen(budget=MIB)
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    async with aclosing(fill.reader()) as pieces:
        await anext(pieces)
        assert source.open_now == 1
    gate = source.gate(MIB)
    waiting = asyncio.create_task(collect(fill.reader()))
    await gate.reached.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert source.open_now == 0
