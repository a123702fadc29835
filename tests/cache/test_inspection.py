"""Blobs hashed again, damaged ones put aside, and the accounting compared with the disk."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import threading
from pathlib import Path

import pytest

from proxy.cache import Checked, RecordStore
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource

BLOB = os.urandom(MIB)
DIGEST = Digest.of(BLOB)


def _path(cache: Cache, digest: Digest) -> Path:
    return cache.directory / "blobs" / "sha256" / digest.hex[:2] / digest.hex


async def _verify(cache: Cache, *, rate: int = 0) -> list[Checked]:
    return [checked async for checked in cache.store.verify(rate=rate)]


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def _truncate(path: Path) -> None:
    os.truncate(path, MIB - 1)


def _extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _replace(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


async def test_what_is_right_is_said_to_be(cache: Cache) -> None:
    digests = {await cache.put(os.urandom(size)) for size in (0, 1, 70_000)} | {
        await cache.put(BLOB)
    }
    checked = await _verify(cache)
    assert {each.digest for each in checked} == digests
    assert {each.problem for each in checked} == {""}
    assert sum(each.size for each in checked) == MIB + 70_001
    assert Kind.CORRUPT not in cache.kinds()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: _flip(path, 0), "hash to"),
        (lambda path: _flip(path, MIB - 1), "hash to"),
        (_truncate, f"has {MIB - 1} bytes"),
        (_extend, f"has {MIB + 1} bytes"),
        (_replace, "cannot be opened"),
        (Path.unlink, "is gone"),
    ],
)
async def test_what_is_damaged_is_put_aside_and_fetched_again(
    cache: Cache, damage: object, problem: str
) -> None:
    await cache.put(BLOB)
    other = await cache.put(b"right")
    assert callable(damage)
    damage(_path(cache, DIGEST))
    checked = {each.digest: each.problem for each in await _verify(cache)}
    assert checked[other] == ""
    assert problem in checked[DIGEST]
    assert not cache.store.contains(DIGEST)
    assert Kind.CORRUPT in cache.kinds()
    await cache.store.audit()
    assert cache.store.used_bytes == cache.disk_bytes()
    source = ByteSource(BLOB)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0]
    assert {each.problem for each in await _verify(cache)} == {""}


async def test_what_cannot_be_opened_for_now_is_not_put_aside(cache: Cache) -> None:
    await cache.put(BLOB)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert await _verify(cache) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [each.problem for each in await _verify(cache)] == [""]


async def test_what_was_put_aside_is_the_first_to_make_room_and_outlives_a_restart(
    cache: Cache,
) -> None:
    await cache.put(BLOB)
    _flip(_path(cache, DIGEST), 7)
    await _verify(cache)
    aside = cache.directory / "quarantine" / f"sha256-{DIGEST.hex}"
    assert aside.stat().st_size == MIB
    await cache.crash()
    await cache.open()
    assert (await cache.store.usage()).quarantined == 1
    assert not cache.store.contains(DIGEST)
    await cache.put(BLOB)
    await cache.reopen(budget=2 * MIB)
    assert not aside.exists()
    assert cache.store.contains(DIGEST)


async def test_a_blob_that_is_damaged_again_takes_the_place_of_the_first(cache: Cache) -> None:
    for offset in (3, 5):
        await cache.put(BLOB)
        cache.told.clear()
        _flip(_path(cache, DIGEST), offset)
        await _verify(cache)
    assert (await cache.store.usage()).quarantined == 1
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_reader_that_is_at_a_damaged_blob_keeps_its_file(cache: Cache) -> None:
    await cache.put(BLOB)
    _flip(_path(cache, DIGEST), 0)
    with cache.store.find(DIGEST) or pytest.fail("not found") as pin, pin.path.open("rb") as file:
        await _verify(cache)
        assert not cache.store.contains(DIGEST)
        assert file.read()[1:] == BLOB[1:]
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_verifying_goes_no_faster_than_it_may(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.put(BLOB)
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await _verify(cache, rate=256 * 1024)
    # The reading itself is a part of the four seconds, and a small one.
    assert 3.0 < sum(pauses) <= 4.0
    assert len(pauses) == 16


async def test_what_is_evicted_while_it_is_verified_is_no_damage(cache: Cache) -> None:
    digests = [await cache.put(os.urandom(1000)) for _ in range(3)]
    checking = cache.store.verify()
    first = await anext(checking)
    for digest in digests:
        await cache.store.remove(digest)
    assert [each async for each in checking] == []
    assert first.problem == ""


async def test_an_audit_finds_nothing_where_all_is_right(cache: Cache) -> None:
    await cache.put(BLOB)
    await (await RecordStore.open(cache.store)).put("manifest", "r", "n", "k", b"x")
    audit = await cache.store.audit()
    assert not audit.mended
    assert audit.counted == audit.on_disk == cache.disk_bytes()


async def test_an_audit_counts_what_came_and_went_behind_our_back(cache: Cache) -> None:
    gone, cut = await cache.put(os.urandom(30_000)), await cache.put(BLOB)
    _path(cache, gone).unlink()
    os.truncate(_path(cache, cut), 10)
    new = os.urandom(50_000)
    path = _path(cache, Digest.of(new))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(new)
    (cache.directory / "notes.txt").write_bytes(bytes(10_000))
    before = cache.store.used_bytes
    audit = await cache.store.audit()
    assert (audit.counted, audit.on_disk) == (before, cache.disk_bytes())
    assert (audit.missing, audit.found) == (1, 1)
    assert audit.mended
    assert cache.store.used_bytes == cache.disk_bytes()
    assert not cache.store.contains(gone)
    assert cache.store.contains(Digest.of(new))
    assert cache.store.unknown_files == 1
    # It is not the blob for that: what it was is remembered, so that nobody takes it for whole.
    with cache.store.find(cut) or pytest.fail("not found") as pin:
        assert pin.size == MIB
    assert not (await cache.store.audit()).mended


async def test_an_audit_counts_no_folder_that_is_gone(cache: Cache) -> None:
    await cache.put(BLOB)
    shutil.rmtree(cache.directory / "blobs" / "sha256")
    audit = await cache.store.audit()
    assert audit.missing == 1
    assert audit.on_disk == cache.disk_bytes()


async def test_an_audit_leaves_alone_what_is_being_written(cache: Cache) -> None:
    source = ByteSource(BLOB)
    gate = source.gate(500_000)
    fill = cache.store.fill(DIGEST, source)
    await gate.reached.wait()
    spool = await cache.store.create_spool("upload")
    await spool.append(b"x" * 100_000)
    audit = await cache.store.audit()
    assert (audit.missing, audit.found) == (0, 0)
    gate.go.set()
    assert await collect(fill.reader()) == BLOB
    await cache.stored(DIGEST)
    await spool.discard()
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_an_audit_takes_nothing_from_under_who_writes_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left half written by a process that is gone looks the same, but at the start only."""
    begun, go = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        begun.set()
        assert go.wait(60)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    records = await RecordStore.open(cache.store)
    putting = asyncio.create_task(records.put("alias", "r", "n", "k", b"kept"))
    await asyncio.to_thread(begun.wait)
    spool = await cache.store.create_spool("old")
    await spool.append(b"x")
    os.utime(cache.directory / "uploads" / "old", (0, 0))
    audit = await cache.store.audit()
    assert (audit.missing, audit.found) == (0, 0)
    go.set()
    await putting
    assert [piece async for piece in spool.read(0, 1)] == [b"x"]
    assert (cache.directory / "uploads" / "old").exists()
    await spool.discard()
    await cache.crash()
    await cache.open()
    assert await (await RecordStore.open(cache.store)).find("alias", "r", "n", "k") == b"kept"


async def test_an_audit_while_a_blob_is_put_aside_counts_it_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    real = os.rename

    def rename(path: str, target: str) -> None:
        real(path, target)
        begun.set()
        assert go.wait(60)

    await cache.put(BLOB)
    _flip(_path(cache, DIGEST), 0)
    monkeypatch.setattr(os, "rename", rename)
    verifying = asyncio.create_task(_verify(cache))
    await asyncio.to_thread(begun.wait)
    audit = await cache.store.audit()
    assert (audit.missing, audit.found) == (0, 0)
    go.set()
    await verifying
    assert len(cache.store.space.budget) == 1
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_an_audit_in_the_middle_of_everything_ends_with_the_right_sum(cache: Cache) -> None:
    async def churn(number: int) -> None:
        for place in range(10):
            digest = await cache.put(os.urandom(20_000 + number * 1000 + place))
            if place % 2:
                await cache.store.remove(digest)

    async def look() -> None:
        for _ in range(10):
            audit = await cache.store.audit()
            assert (audit.missing, audit.found) == (0, 0)

    await asyncio.gather(*(churn(number) for number in range(6)), look())
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_shrinking_evicts_down_to_a_size_and_leaves_what_is_in_use(cache: Cache) -> None:
    for _ in range(6):
        await cache.put(os.urandom(MIB))
    used = cache.store.used_bytes
    assert await cache.store.shrink(3 * MIB) == used - cache.store.used_bytes
    assert 2 * MIB < cache.store.used_bytes <= 3 * MIB
    assert cache.store.used_bytes == cache.disk_bytes()
    left = next(cache.store.blobs()).digest
    with cache.store.find(left) or pytest.fail("not found"):
        await cache.store.shrink(0)
        assert [blob.digest for blob in cache.store.blobs()] == [left]


async def test_what_is_taken_up_while_others_are_evicted_stays(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.space._PART", 1)
    begun, go = threading.Event(), threading.Event()
    real = os.unlink

    def unlink(path: str) -> None:
        begun.set()
        assert go.wait(60)
        real(path)

    digests = [await cache.put(os.urandom(1000)) for _ in range(3)]
    monkeypatch.setattr(os, "unlink", unlink)
    shrinking = asyncio.create_task(cache.store.shrink(0))
    await asyncio.to_thread(begun.wait)
    with cache.store.find(digests[1]) or pytest.fail("not found") as pin:
        go.set()
        await shrinking
        assert [blob.digest for blob in cache.store.blobs()] == [digests[1]]
        assert pin.path.exists()


async def test_usage_tells_what_there_is(cache: Cache) -> None:
    await cache.put(BLOB)
    await cache.put(b"damaged")
    _flip(_path(cache, Digest.of(b"damaged")), 0)
    await _verify(cache)
    usage = await cache.store.usage()
    assert (usage.limit, usage.used, usage.reserved) == (64 * MIB, cache.disk_bytes(), 0)
    assert (usage.blobs, usage.blob_bytes, usage.quarantined, usage.partial) == (1, MIB, 1, 0)
    assert usage.free > 0
    assert not usage.scanning
    assert not usage.degraded
