"""A start: by the checkpoint of a clean stop, else by reading the directory behind the requests."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest

from proxy.cache import CacheError, RecordStore, loading
from proxy.cache.layout import Layout
from proxy.cache.scan import Folder, read_folder
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource

BLOBS = [os.urandom(size) for size in (0, 5, 5000, 70_000, 200_000)]


class Gated:
    """Reads folders, the one named not before it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
        self.read: list[str] = []
        self.go = threading.Event()
        self._folder = folder
        monkeypatch.setattr(loading, "read_folder", self._read)
        monkeypatch.setattr("proxy.cache.store._LOAD_SECONDS", 0.0)
        monkeypatch.setattr("proxy.cache.space._SHORTLY", 0.0)

    def _read(self, layout: Layout, name: str, *, tidy: bool) -> Folder:
        found = read_folder(layout, name, tidy=tidy)
        self.read.append(name)
        if name == self._folder:
            assert self.go.wait(60)
        return found


@pytest.mark.parametrize("clean", [True, False])
async def test_what_was_there_is_there_and_counted(cache: Cache, clean: bool) -> None:
    digests = [await cache.put(blob) for blob in BLOBS]
    records = await RecordStore.open(cache.store)
    await records.put("alias", "r", "n", "k", b"kept")
    order = [blob.digest for blob in cache.store.blobs()]
    await (cache.close() if clean else cache.crash())
    assert (cache.directory / "checkpoint").exists() is clean
    store = await cache.open()
    assert not (cache.directory / "checkpoint").exists()
    assert store.used_bytes == cache.disk_bytes()
    assert all(store.contains(digest) for digest in digests)
    if clean:
        assert [blob.digest for blob in store.blobs()] == order
    assert store.blob_count == len(BLOBS)
    assert (await store.usage()).blob_bytes == sum(map(len, BLOBS))
    assert await (await RecordStore.open(store)).find("alias", "r", "n", "k") == b"kept"


async def test_who_was_used_last_is_known_after_a_crash_too(cache: Cache) -> None:
    digests = [await cache.put(blob) for blob in BLOBS]
    for digest in (digests[2], digests[0]):
        with cache.store.find(digest) or pytest.fail("not found"):
            pass
        await cache.store.tend()
    # Whoever reads everything is no user of it.
    assert {checked.problem async for checked in cache.store.verify()} == {""}
    await cache.crash()
    store = await cache.open()
    assert [blob.digest for blob in store.blobs()][-2:] == [digests[2], digests[0]]


async def test_a_start_by_the_checkpoint_reads_no_folder_of_blobs(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.put(BLOBS[2])
    gated = Gated(monkeypatch, "")
    gated.go.set()
    await cache.reopen()
    await cache.store.settled()
    assert gated.read == ["", "uploads"]


def _replace_by_copy(directory: Path) -> None:
    """As from a backup, or on another disk, where it may take another number of blocks."""
    old = directory.with_name("old")
    directory.rename(old)
    shutil.copytree(old, directory)  # times included


@pytest.mark.parametrize(
    "change",
    [
        # No hexadecimal name, which one of the blobs may have made.
        pytest.param(lambda d: (d / "blobs/sha256/zz").mkdir(), id="folder"),
        pytest.param(lambda d: (d / "blobs/note").write_bytes(b"x" * 9000), id="file"),
        pytest.param(lambda d: next(d.glob("blobs/*/*/*")).unlink(), id="gone"),
        pytest.param(lambda d: (d / "incoming/other").write_bytes(b"x"), id="incoming"),
        pytest.param(lambda d: (d / "other").write_bytes(b"x" * 9000), id="root"),
        pytest.param(_replace_by_copy, id="copy"),
        pytest.param(lambda d: os.truncate(d / "checkpoint", 300), id="cut"),
        pytest.param(lambda d: (d / "checkpoint").write_bytes(b""), id="empty"),
    ],
)
async def test_a_checkpoint_that_is_not_true_any_more_is_not_used(
    cache: Cache, change: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.put(BLOBS[2])
    await cache.close()
    assert callable(change)
    change(cache.directory)
    gated = Gated(monkeypatch, "")
    gated.go.set()
    await cache.open()
    await cache.store.settled()
    assert "blobs/sha256" in gated.read
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_folder_in_the_checkpoints_place_is_not_ours(cache: Cache) -> None:
    digest = await cache.put(BLOBS[2])
    await cache.close()
    (cache.directory / "checkpoint").unlink()
    (cache.directory / "checkpoint").mkdir()
    for _ in range(2):
        store = await cache.open()
        assert store.contains(digest)
        assert store.unknown_files == 1
        await cache.close()


async def test_the_checkpoint_of_a_crash_is_none(cache: Cache) -> None:
    digest = await cache.put(BLOBS[2])
    await cache.reopen()
    await cache.store.remove(digest)
    await cache.crash()
    await cache.open()
    assert not cache.store.contains(digest)
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_checkpoint_is_within_the_budget(cache: Cache) -> None:
    await cache.reopen(budget=MIB)
    for _ in range(30):
        await cache.put(os.urandom(30_000))
    await cache.close()
    assert cache.disk_bytes() <= MIB
    assert (cache.directory / "checkpoint").exists()


async def test_during_the_scan_blobs_are_found_and_nothing_new_is_stored(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, removed = await cache.put(BLOBS[3]), await cache.put(BLOBS[4])
    await cache.crash()
    gated = Gated(monkeypatch, f"blobs/sha256/{removed.hex[:2]}")
    store = await cache.open(settle=False)
    assert store.is_loading
    with store.find(kept) or pytest.fail("not found") as pin:
        assert pin.path.read_bytes() == BLOBS[3]
    unused = ByteSource(b"")
    assert await collect(store.fill(kept, unused).reader()) == BLOBS[3]
    assert unused.opened == []
    other = os.urandom(MIB)
    assert await collect(store.fill(Digest.of(other), ByteSource(other)).reader()) == other
    assert Kind.BYPASS in cache.kinds()
    # It was seen by the scan already, and is not to come back.
    assert await store.remove(removed)
    assert not store.contains(removed)
    # What must be kept waits until it is known that there is room.
    records = await RecordStore.open(store)
    putting = asyncio.create_task(records.put("alias", "r", "n", "k", b"kept"))
    opening = asyncio.create_task(store.open_spool("unknown"))
    await asyncio.wait([putting, opening], timeout=0)
    assert not putting.done()
    assert not opening.done()
    gated.go.set()
    await store.settled()
    await putting
    assert await opening is None
    assert store.contains(kept)
    assert not store.contains(removed)
    assert not store.contains(Digest.of(other))
    await cache.put(other)
    assert store.used_bytes == cache.disk_bytes()


async def test_what_is_to_be_stored_waits_a_moment_for_the_scan(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a crowd on a small cache, just after its start, costs one download."""
    await cache.crash()
    gated = Gated(monkeypatch, "blobs")
    monkeypatch.setattr("proxy.cache.space._SHORTLY", 3600.0)
    store = await cache.open(settle=False)
    source = ByteSource(BLOBS[4])
    fill = store.fill(Digest.of(BLOBS[4]), source)
    readers = [asyncio.create_task(collect(fill.reader())) for _ in range(5)]
    await asyncio.wait(readers, timeout=0)
    gated.go.set()
    assert await asyncio.gather(*readers) == [BLOBS[4]] * 5
    await cache.stored(Digest.of(BLOBS[4]))
    assert source.opened == [0]


async def test_what_is_used_during_the_scan_counts_as_used(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [await cache.put(blob) for blob in BLOBS]
    await cache.crash()
    first = sorted(digests)[0]
    gated = Gated(monkeypatch, f"blobs/sha256/{first.hex[:2]}")
    store = await cache.open(settle=False)
    with store.find(digests[0]) or pytest.fail("not found"):
        gated.go.set()
        await store.settled()
        assert [*store.blobs()][-1].digest == digests[0]
        await store.shrink(0)
        assert [blob.digest for blob in store.blobs()] == [digests[0]]  # it is being read


async def test_closing_during_the_scan_leaves_no_checkpoint(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await cache.put(BLOBS[3])
    await cache.crash()
    gated = Gated(monkeypatch, "blobs")
    await cache.open(settle=False)
    closing = asyncio.create_task(cache.close())
    await asyncio.wait([closing], timeout=0)
    gated.go.set()
    await closing
    assert not (cache.directory / "checkpoint").exists()
    await cache.open()
    await cache.store.settled()
    assert cache.store.contains(digest)


async def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_used(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root one can read everything: the refusal is the disk's, of one folder."""
    digest = await cache.put(BLOBS[3])
    (cache.directory / "blobs" / "sha512").mkdir()
    await cache.crash()

    def read(layout: Layout, name: str, *, tidy: bool) -> Folder:
        if name == "blobs/sha512":
            raise OSError(5, "Input/output error")
        return read_folder(layout, name, tidy=tidy)

    monkeypatch.setattr(loading, "read_folder", read)
    store = await cache.open()
    assert store.contains(digest)
    assert store.unknown_files == 1
    assert Kind.TROUBLE in cache.kinds()


async def test_what_is_not_ours_is_told_in_one_line_whatever_its_name(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.crash()
    (cache.directory / os.fsdecode(b"bad\xff\nname")).write_bytes(b"x")
    await cache.open()
    (message,) = [m for m in caplog.messages if "not ours" in m]
    assert r"'bad\udcff\nname' among them" in message


async def test_a_root_that_cannot_be_read_is_an_error_that_names_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.close()

    def read(layout: Layout, name: str, *, tidy: bool) -> Folder:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(loading, "read_folder", read)
    with pytest.raises(CacheError, match=str(cache.directory)):
        await cache.open()


async def test_a_directory_that_cannot_be_counted_after_all_stores_nothing_and_holds_nobody_up(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await cache.put(BLOBS[3])
    await cache.crash()
    gated = Gated(monkeypatch, "blobs")

    async def complete(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("proxy.cache.space.Space.complete", complete)
    store = await cache.open(settle=False)
    records = await RecordStore.open(store)
    putting = asyncio.create_task(records.put("alias", "r", "n", "k", b"kept"))
    gated.go.set()
    with pytest.raises(CacheError, match="cannot be read"):
        await putting
    assert await store.open_spool("upload") is None
    with store.find(digest) or pytest.fail("not found") as pin:
        assert pin.path.read_bytes() == BLOBS[3]
    other = os.urandom(1000)
    assert await collect(store.fill(Digest.of(other), ByteSource(other)).reader()) == other
    assert Kind.BYPASS in cache.kinds()
    assert Kind.TROUBLE in cache.kinds()
