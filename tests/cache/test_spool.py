"""The bytes of an upload on disk."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import time
from contextlib import suppress

import pytest

from proxy.cache import CacheError, NoSpace, Spool, WrongDigest
from proxy.cache.errors import DiskFailed
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource
from tests.cache.test_unstored import largest_file

BLOB = os.urandom(MIB + 17)
DIGEST = Digest.of(BLOB)


async def spool_of(cache: Cache, content: bytes, name: str = "upload") -> Spool:
    spool = await cache.store.create_spool(name, "sha256")
    for start in range(0, len(content), 100_000):
        await spool.append(content[start : start + 100_000])
    return spool


async def fill_up(spool: Spool) -> None:
    """Append until the budget has no room."""
    with suppress(NoSpace):
        while True:
            await spool.append(bytes(10_000))


async def test_what_was_appended_is_a_blob_once_published(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB)
    assert spool.size == len(BLOB)
    assert await spool.digest("sha256") == DIGEST
    assert not cache.store.contains(DIGEST)
    assert await spool.publish(DIGEST)
    with cache.store.find(DIGEST) or pytest.fail("not found") as pin:
        assert pin.path.read_bytes() == BLOB
    assert Kind.STORED in cache.kinds()
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_any_written_range_can_be_read_again_and_again(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB)
    for start, end in ((0, len(BLOB)), (0, 0), (99_999, 100_001), (MIB, len(BLOB)), (5, 6)):
        assert await collect(spool.read(start, end)) == BLOB[start:end]
    early = spool.read(0, 10)
    await spool.append(b"more")
    assert await collect(early) == BLOB[:10]
    await spool.discard()


async def test_another_algorithm_is_answered_by_reading_again(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB)
    digest = Digest.of(BLOB, "sha512")
    assert await spool.digest("sha512") == digest
    assert await spool.publish(digest)
    assert cache.store.contains(digest)


async def test_other_bytes_are_not_published(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB + b"x")
    with pytest.raises(WrongDigest, match=DIGEST):
        await spool.publish(DIGEST)
    assert not cache.store.contains(DIGEST)
    await spool.discard()
    assert cache.files() == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_bytes_that_come_as_it_is_published_are_not_in_the_blob(
    cache: Cache, algorithm: str
) -> None:
    spool = await spool_of(cache, BLOB)
    digest = Digest.of(BLOB, algorithm)
    published, appended = await asyncio.gather(
        spool.publish(digest), spool.append(b"more"), return_exceptions=True
    )
    assert published is True
    assert isinstance(appended, CacheError)
    with cache.store.find(digest) or pytest.fail("not found") as pin:
        assert pin.path.read_bytes() == BLOB


async def test_a_blob_that_is_there_already_is_kept_once(cache: Cache) -> None:
    await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    await cache.stored(DIGEST)
    spool = await spool_of(cache, BLOB)
    assert not await spool.publish(DIGEST)
    assert cache.store.used_bytes == cache.disk_bytes()
    assert cache.store.reserved_bytes == 0


async def test_a_fill_and_an_upload_of_one_blob_may_end_together(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(MIB)
    reader = asyncio.create_task(collect(cache.store.fill(DIGEST, source).reader()))
    spool = await spool_of(cache, BLOB)
    await gate.reached.wait()
    gate.go.set()
    results = await asyncio.gather(spool.publish(DIGEST), reader)
    assert results[1] == BLOB
    await cache.stored(DIGEST)
    assert cache.kinds().count(Kind.STORED) == 1
    await cache.close()
    await cache.open()
    assert cache.store.used_bytes == cache.disk_bytes()
    assert len(cache.files()) == 1


async def test_an_upload_goes_on_after_a_restart(cache: Cache) -> None:
    await spool_of(cache, BLOB[:MIB])
    store = await cache.reopen()
    spool = await store.open_spool("upload", "sha256")
    assert spool is not None
    assert spool.size == MIB
    await spool.append(BLOB[MIB:])
    assert await spool.publish(DIGEST)
    assert await store.open_spool("upload", "sha256") is None


async def test_an_upload_that_was_closed_can_be_opened_again(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB)
    await spool.close()
    with pytest.raises(CacheError):
        await spool.append(b"more")
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()
    again = await cache.store.open_spool("upload", "sha256")
    assert again is not None
    assert await again.digest("sha256") == DIGEST
    await again.discard()
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_those_who_open_one_upload_together_share_it(cache: Cache) -> None:
    await (await spool_of(cache, BLOB)).close()
    opening = [cache.store.open_spool("upload", "sha256") for _ in range(3)]
    first, second, third = await asyncio.gather(*opening)
    assert first is not None
    assert first is second is third
    await first.close()
    await first.append(b"still open for the others")
    await first.close()
    await first.discard()
    await first.close()


async def test_an_unknown_or_discarded_upload_is_not_found(cache: Cache) -> None:
    assert await cache.store.open_spool("never", "sha256") is None
    spool = await spool_of(cache, b"bytes")
    await spool.discard()
    await spool.discard()
    assert await cache.store.open_spool("upload", "sha256") is None
    assert cache.files() == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "../secret", "a.b", "a" * 65, "é"])
async def test_a_name_cannot_lead_out_of_the_directory(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match="no name of an upload"):
        await cache.store.create_spool(name)
    with pytest.raises(ValueError, match="no name of an upload"):
        await cache.store.open_spool(name)


async def test_an_upload_abandoned_for_a_day_is_dropped_at_the_next_start(cache: Cache) -> None:
    await spool_of(cache, BLOB, "old")
    await spool_of(cache, BLOB, "new")
    await cache.close()
    yesterday = time.time() - 25 * 3600
    os.utime(cache.directory / "uploads" / "old", (yesterday, yesterday))
    store = await cache.open()
    assert cache.files() == ["uploads/new"]
    assert await store.open_spool("old") is None


async def test_without_room_an_upload_is_refused_and_what_there_is_stays_readable(
    cache: Cache,
) -> None:
    await cache.reopen(budget=MIB)
    spool = await cache.store.create_spool("upload")
    await fill_up(spool)
    assert 800_000 < spool.size < MIB
    assert await collect(spool.read(0, spool.size)) == bytes(spool.size)
    await spool.discard()
    assert cache.store.reserved_bytes == 0
    await spool_of(cache, BLOB[:900_000], "another")


async def test_an_upload_takes_the_room_of_what_is_not_in_use(cache: Cache) -> None:
    await cache.reopen(budget=2 * MIB)
    await (await spool_of(cache, BLOB, "idle")).close()
    spool = await spool_of(cache, BLOB[:-1], "busy")
    assert await cache.store.open_spool("idle") is None
    assert cache.disk_bytes() <= 2 * MIB
    assert await spool.publish(Digest.of(BLOB[:-1]))


async def test_a_disk_that_refuses_is_no_room(cache: Cache) -> None:
    spool = await cache.store.create_spool("upload")
    await spool.append(BLOB[:1000])
    with largest_file(5000), pytest.raises(NoSpace):
        await spool.append(BLOB[1000:])
    assert spool.size == 1000
    assert await collect(spool.read(0, 1000)) == BLOB[:1000]
    assert Kind.TROUBLE in cache.kinds()
    # The hash stands where the bytes do.
    await spool.append(BLOB[1000:])
    assert await spool.publish(DIGEST)


async def test_an_upload_that_the_disk_refuses_to_publish_goes_on_as_it_was(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever promised the bytes has them still."""
    spool = await spool_of(cache, BLOB)

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFailed):
            await spool.publish(DIGEST)
    assert Kind.DEGRADED in cache.kinds()
    assert spool.is_open
    assert await collect(spool.read(0, len(BLOB))) == BLOB
    assert not cache.store.contains(DIGEST)
    assert await spool.publish(DIGEST)
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_bytes_of_which_a_part_was_written_are_no_part_of_the_blob(cache: Cache) -> None:
    spool = await cache.store.create_spool("upload")
    await spool.append(b"kept")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(NoSpace):
            await spool.append(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    digest = Digest.of(b"kept")
    assert await spool.publish(digest)
    with cache.store.find(digest) or pytest.fail("not found") as pin:
        assert (pin.size, pin.path.read_bytes()) == (4, b"kept")


async def test_an_append_that_is_cancelled_is_whole_or_not_there(cache: Cache) -> None:
    for steps in range(12):
        spool = await cache.store.create_spool(f"s{steps}")
        await spool.append(b"begin")
        task = asyncio.create_task(spool.append(BLOB))
        for _ in range(steps):
            await asyncio.wait([task], timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        content = b"begin" + (BLOB if spool.size > 5 else b"")
        assert spool.size == len(content)
        assert await spool.digest("sha256") == Digest.of(content)
        assert await collect(spool.read(0, spool.size)) == content
        await spool.discard()
        assert cache.store.reserved_bytes == 0
        assert cache.files() == []


async def test_a_publish_that_is_cancelled_is_accounted_for(cache: Cache) -> None:
    for steps in range(12):
        spool = await spool_of(cache, BLOB, f"s{steps}")
        task = asyncio.create_task(spool.publish(DIGEST))
        for _ in range(steps):
            await asyncio.wait([task], timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await spool.discard()
        assert cache.store.reserved_bytes == 0
        assert cache.store.used_bytes == cache.disk_bytes()
        await cache.store.remove(DIGEST)
        assert cache.files() == []


@pytest.mark.parametrize("ending", ["discard", "close"])
async def test_an_end_that_is_cancelled_is_an_end(cache: Cache, ending: str) -> None:
    for steps in range(8):
        spool = await spool_of(cache, BLOB, f"s{steps}")
        task = asyncio.create_task(spool.discard() if ending == "discard" else spool.close())
        for _ in range(steps):
            await asyncio.wait([task], timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert spool.is_open == (steps == 0)  # 0: it never began
        if spool.is_open:
            await spool.discard()
        assert cache.store.reserved_bytes == 0
        assert cache.store.used_bytes == cache.disk_bytes()


async def test_readers_of_an_upload_outlast_its_end(cache: Cache) -> None:
    spool = await spool_of(cache, BLOB)
    reader = spool.read(0, len(BLOB))
    first = await anext(reader)
    await spool.discard()
    assert cache.store.reserved_bytes > 0  # the blocks are in use still
    assert first + await collect(reader) == BLOB
    assert cache.store.reserved_bytes == 0
