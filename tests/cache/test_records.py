"""Small things kept on disk, and the key that outlives restarts."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.cache import CacheError, NoSpace, RecordStore, load_secret
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource
from tests.cache.test_spool import fill_up
from tests.cache.test_unstored import largest_file

WHERE = ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "team/app")


def record_file(cache: Cache, kind: str) -> Path:
    (path,) = (path for path in (cache.directory / "records" / kind).rglob("*") if path.is_file())
    return path


@pytest.mark.parametrize("kind", ["manifest", "alias"])
async def test_what_was_put_is_found_also_after_a_restart(cache: Cache, kind: str) -> None:
    records = await RecordStore.open(cache.store)
    assert await records.find(kind, *WHERE, "key") is None
    await records.put(kind, *WHERE, "key", b"first")
    await records.put(kind, *WHERE, "key", b"second")
    assert await records.find(kind, *WHERE, "key") == b"second"
    assert cache.store.used_bytes == cache.disk_bytes()
    records = await RecordStore.open(await cache.reopen())
    assert await records.find(kind, *WHERE, "key") == b"second"
    assert cache.store.used_bytes == cache.disk_bytes()
    assert await records.remove(kind, *WHERE, "key")
    assert not await records.remove(kind, *WHERE, "key")
    assert await records.find(kind, *WHERE, "key") is None
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_each_part_of_the_name_tells_records_apart(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    names = [
        ("alias", "a", "b", "c"),
        ("manifest", "a", "b", "c"),
        ("alias", "a/b", "", "c"),
        ("alias", "a", "b\0c", ""),
        ("alias", "a", "b", "c\0"),
        ("alias", "ab", "", "c"),
    ]
    for number, name in enumerate(names):
        await records.put(*name, bytes([number]))
    records = await RecordStore.open(await cache.reopen())
    for number, name in enumerate(names):
        assert await records.find(*name) == bytes([number])


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.tuples(st.text(), st.text(), st.text()), content=st.binary(max_size=100))
async def test_no_name_leads_out_of_the_directory(
    cache: Cache, name: tuple[str, str, str], content: bytes
) -> None:
    records = await RecordStore.open(cache.store)
    await records.put("alias", *name, content)
    fresh = await RecordStore.open(cache.store)
    assert await fresh.find("alias", *name) == content
    record_file(cache, "alias")
    assert len(cache.files()) == 1
    assert await fresh.remove("alias", *name)


@pytest.mark.parametrize("kind", ["", "..", "a/b", "A", "a" * 17, "a1"])
async def test_a_kind_is_a_word(cache: Cache, kind: str) -> None:
    records = await RecordStore.open(cache.store)
    with pytest.raises(ValueError, match="no kind of record"):
        await records.put(kind, *WHERE, "key", b"")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap"])
async def test_a_damaged_record_is_a_miss_and_gone(cache: Cache, damage: str) -> None:
    records = await RecordStore.open(cache.store)
    await records.put("alias", *WHERE, "key", b"content")
    path = record_file(cache, "alias")
    good = path.read_bytes()
    if damage == "swap":
        # Whole, but another record's.
        other = await RecordStore.open(cache.store)
        path.rename(cache.directory / "aside")
        await other.put("alias", *WHERE, "other", b"other")
        record_file(cache, "alias").rename(path)
        (cache.directory / "aside").unlink()
    else:
        bad = {"flip": good[:-1] + b"T", "cut": good[:-1], "empty": b""}[damage]
        path.write_bytes(bad)
    fresh = await RecordStore.open(cache.store)
    assert await fresh.find("alias", *WHERE, "key") is None
    assert not path.exists()
    assert Kind.TROUBLE in cache.kinds()
    await fresh.put("alias", *WHERE, "key", b"content")
    assert path.read_bytes() == good


@pytest.mark.parametrize("drop", [False, True])
async def test_promises_that_the_key_was_lost_of_are_told_of(cache: Cache, drop: bool) -> None:
    records = await RecordStore.open(cache.store)
    for number in range(3):
        await records.put("debt", *WHERE, str(number), b"before")
    (cache.directory / "secret").unlink()
    records = await RecordStore.open(await cache.reopen())
    await records.put("debt", *WHERE, "3", b"since")
    (cache.directory / "records/debt/not ours").write_bytes(b"")
    assert await records.all("debt", drop=drop) == [(*WHERE, "3", b"since")]
    (told,) = (event.detail for event in cache.told if event.kind is Kind.TROUBLE)
    assert told.startswith("3 notes in")
    assert len(list((cache.directory / "records/debt").glob("??/*"))) == (1 if drop else 4)
    (cache.directory / "records/debt/not ours").unlink()
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_manifests_make_room_but_aliases_stay(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    records = await RecordStore.open(cache.store)
    await records.put("alias", *WHERE, "key", b"alias")
    for number in range(8):
        await records.put("manifest", *WHERE, str(number), os.urandom(200_000))
        assert cache.disk_bytes() <= MIB
    fresh = await RecordStore.open(cache.store)
    found = [await fresh.find("manifest", *WHERE, str(number)) for number in range(8)]
    assert found[0] is None
    assert found[7] is not None
    assert await fresh.find("alias", *WHERE, "key") == b"alias"
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_manifest_without_room_is_left_unkept_and_an_alias_says_so(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    records = await RecordStore.open(cache.store)
    await records.put("manifest", *WHERE, "large", bytes(2 * MIB))
    assert await records.find("manifest", *WHERE, "large") is None
    with pytest.raises(NoSpace):
        await records.put("alias", *WHERE, "large", bytes(2 * MIB))
    assert cache.store.reserved_bytes == 0


async def test_an_alias_finds_room_where_blobs_find_none(cache: Cache) -> None:
    await cache.reopen(budget=2 * MIB)
    records = await RecordStore.open(cache.store)
    spool = await cache.store.create_spool("upload")
    await fill_up(spool)
    await records.put("alias", *WHERE, "key", b"alias")
    assert cache.store.used_bytes + cache.store.reserved_bytes <= 2 * MIB
    await spool.discard()


async def test_a_disk_that_refuses_is_told_and_only_an_alias_fails(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    await records.put("alias", *WHERE, "key", b"before")
    with largest_file(10_000):
        await records.put("manifest", *WHERE, "key", bytes(20_000))
        assert Kind.TROUBLE in cache.kinds()
        with pytest.raises(CacheError, match="team/app"):
            await records.put("alias", *WHERE, "key", bytes(20_000))
    assert await records.find("alias", *WHERE, "key") == b"before"
    assert await records.find("manifest", *WHERE, "key") is None
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()


@pytest.mark.parametrize("kind", ["manifest", "alias"])
async def test_a_promise_that_cannot_be_read_is_not_taken_for_absent(
    cache: Cache, kind: str
) -> None:
    await (await RecordStore.open(cache.store)).put(kind, *WHERE, "key", b"content")
    records = await RecordStore.open(await cache.reopen())
    file = record_file(cache, kind)
    aside = file.rename(file.with_name("aside"))
    file.mkdir()
    if kind == "alias":
        with pytest.raises(CacheError, match="Is a directory"):
            await records.find(kind, *WHERE, "key")
    else:
        assert await records.find(kind, *WHERE, "key") is None
    file.rmdir()
    aside.rename(file)
    assert await records.find(kind, *WHERE, "key") == b"content"


async def test_concurrent_puts_leave_one_whole_record(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    contents = [bytes([number]) * 50_000 for number in range(12)]
    await asyncio.gather(*(records.put("alias", *WHERE, "key", content) for content in contents))
    found = await records.find("alias", *WHERE, "key")
    fresh = await RecordStore.open(cache.store)
    assert found in contents
    assert await fresh.find("alias", *WHERE, "key") == found
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_put_that_is_cancelled_is_whole_or_not_there(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    for steps in range(12):
        await records.put("alias", *WHERE, "key", b"old")
        task = asyncio.create_task(records.put("alias", *WHERE, "key", b"new" * 30_000))
        for _ in range(steps):
            await asyncio.wait([task], timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        found = await records.find("alias", *WHERE, "key")
        assert found in (b"old", b"new" * 30_000)
        fresh = await RecordStore.open(cache.store)
        assert await fresh.find("alias", *WHERE, "key") == found
        assert cache.store.reserved_bytes == 0
        assert cache.store.used_bytes == cache.disk_bytes()


async def test_who_reads_a_record_as_it_is_removed_does_not_bring_it_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    real = os.unlink

    def unlink(path: str) -> None:
        begun.set()
        assert go.wait(60)
        real(path)

    records = await RecordStore.open(cache.store)
    await records.put("alias", *WHERE, "key", b"content")
    monkeypatch.setattr(os, "unlink", unlink)
    removing = asyncio.create_task(records.remove("alias", *WHERE, "key"))
    await asyncio.to_thread(begun.wait)
    await records.find("alias", *WHERE, "key")
    go.set()
    assert await removing
    assert await records.find("alias", *WHERE, "key") is None


async def test_a_record_that_cannot_take_its_place_leaves_nothing(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    await records.put("alias", *WHERE, "key", b"content")
    path = record_file(cache, "alias")
    path.unlink()
    path.mkdir()
    with pytest.raises(CacheError, match="team/app"):
        await records.put("alias", *WHERE, "key", b"other")
    assert cache.files() == []
    path.rmdir()
    await records.put("alias", *WHERE, "key", b"other")
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_the_secret_outlives_a_restart(cache: Cache) -> None:
    layout = cache.store.space.layout
    secret = await load_secret(layout)
    assert len(secret) == 44
    assert cache.store.used_bytes == cache.disk_bytes()
    await cache.reopen()
    assert await load_secret(layout) == secret
    await cache.crash()
    await cache.open()
    assert await load_secret(layout) == secret
    assert (cache.directory / "secret").stat().st_mode & 0o777 == 0o600


async def test_a_damaged_secret_is_replaced_at_the_next_start(cache: Cache) -> None:
    layout = cache.store.space.layout
    (cache.directory / "secret").write_bytes(b"short")
    with pytest.raises(CacheError, match="secret"):
        await load_secret(layout)
    await cache.reopen()
    secret = await load_secret(layout)
    assert len(secret) == 44
    await cache.reopen()
    assert await load_secret(layout) == secret
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_secret_that_cannot_be_kept_is_an_error(cache: Cache) -> None:
    await cache.close()
    (cache.directory / "secret").unlink()
    (cache.directory / "secret").mkdir()
    with pytest.raises(CacheError, match="secret"):
        await cache.open()
    assert cache.files() == []


async def test_records_and_blobs_do_not_see_each_other(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    await records.put("manifest", *WHERE, "key", b"content")
    assert cache.store.blob_count == 0
    assert not cache.store.contains(Digest.of(b"content"))


async def test_a_promise_gives_way_to_no_blob_and_only_to_later_promises(cache: Cache) -> None:
    """What an alias stands for was answered to a client, who may ask for it for as long."""
    await cache.reopen(budget=MIB)
    records = await RecordStore.open(cache.store)
    for number in range(20):
        await records.put("alias", *WHERE, f"first-{number}", b"x" * 4000)
    blob = os.urandom(MIB - 100_000)  # would have room without them
    assert await collect(cache.store.fill(Digest.of(blob), ByteSource(blob)).reader()) == blob
    await cache.store.shrink(0)
    fresh = await RecordStore.open(cache.store)
    for number in range(20):
        assert await fresh.find("alias", *WHERE, f"first-{number}") is not None
    for number in range(200):
        await records.put("alias", *WHERE, f"later-{number}", b"x" * 4000)
        assert cache.store.used_bytes <= MIB
    fresh = await RecordStore.open(cache.store)
    assert await fresh.find("alias", *WHERE, "first-0") is None
    assert await fresh.find("alias", *WHERE, "later-199") is not None


async def test_all_records_of_a_kind_are_listed_from_disk(cache: Cache) -> None:
    records = await RecordStore.open(cache.store)
    assert await records.all("debt") == []
    for number in range(5):
        await records.put("debt", *WHERE, f"key-{number}", b"content\n%d" % number)
    await records.put("alias", *WHERE, "key-1", b"another kind's")
    await records.remove("debt", *WHERE, "key-4")
    await cache.reopen()
    files = (cache.directory / "records" / "debt").rglob("*")
    damaged = next(path for path in files if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    records = await RecordStore.open(cache.store)
    listed = await records.all("debt")
    assert len(listed) == 3
    assert {(*WHERE, f"key-{n}", b"content\n%d" % n) for n in range(4)} > set(listed)


async def test_a_record_that_is_kept_gives_way_to_no_promise(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    records = await RecordStore.open(cache.store)
    pin = records.keep("debt", *WHERE, "owed")  # before it is there: nothing comes between
    await records.put("debt", *WHERE, "owed", b"x")
    for number in range(250):
        await records.put("alias", *WHERE, f"later-{number}", b"x" * 4000)
    assert await (await RecordStore.open(cache.store)).find("debt", *WHERE, "owed") == b"x"
    pin.release()
    for number in range(250):
        await records.put("alias", *WHERE, f"even-later-{number}", b"x" * 4000)
    assert await (await RecordStore.open(cache.store)).find("debt", *WHERE, "owed") is None
