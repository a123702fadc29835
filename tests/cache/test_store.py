"""The store as a whole: its directory, its budget, and what survives a restart."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cache import BlobStore, CacheError
from proxy.events import Events, Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource


def use(cache: Cache, digest: Digest) -> None:
    pin = cache.store.find(digest)
    assert pin is not None
    pin.release()


async def _open(directory: Path) -> BlobStore:
    return await BlobStore.open(directory, budget=MIB, events=Events())


# The directory


async def test_only_this_user_may_read_what_is_stored(cache: Cache) -> None:
    await cache.put(b"blob")
    for path in (cache.directory, *cache.directory.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


async def test_a_directory_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for directory in (path, path / "below"):
        with pytest.raises(CacheError, match=str(directory)):
            await _open(directory)


async def test_a_directory_that_cannot_be_written_to_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="/proc/cache"):
        await _open(Path("/proc/cache"))


async def test_a_second_owner_is_refused_with_the_first_ones_process(cache: Cache) -> None:
    with pytest.raises(CacheError, match=rf"{cache.directory} is in use by process {os.getpid()}"):
        await _open(cache.directory)


async def test_the_lock_goes_with_the_process_that_had_it(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, sys\n"
        "from proxy.cache import BlobStore\n"
        "from proxy.events import Events\n"
        "async def main():\n"
        "    path = pathlib.Path(sys.argv[1])\n"
        "    await BlobStore.open(path, budget=1 << 20, events=Events())\n"
        "    print(os.getpid(), flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(tmp_path / "cache"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    owner = (await process.stdout.readline()).decode().strip()
    with pytest.raises(CacheError, match=f"in use by process {owner}"):
        await _open(tmp_path / "cache")
    process.kill()
    await process.wait()
    await (await _open(tmp_path / "cache")).close()


async def test_a_refused_directory_leaves_the_lock_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    (directory / "blobs").mkdir(parents=True)
    (directory / "uploads").write_text("")
    with pytest.raises(CacheError, match="uploads is no directory"):
        await _open(directory)
    (directory / "uploads").unlink()
    await (await _open(directory)).close()


async def test_names_never_look_like_compressed_twins(cache: Cache) -> None:
    await cache.put(b"blob")
    assert not any(name.endswith((".gz", ".br")) for name in cache.files())


# What survives


async def test_blobs_are_there_after_a_restart(cache: Cache) -> None:
    digest = await cache.put(b"kept")
    store = await cache.reopen()
    with store.find(digest) or pytest.fail("not found") as pin:
        assert pin.path.read_bytes() == b"kept"
        assert pin.size == 4
    assert store.blob_count == 1


async def test_the_order_of_use_survives_a_restart(cache: Cache) -> None:
    blobs = [await cache.put(os.urandom(MIB)) for _ in range(4)]
    use(cache, blobs[0])
    use(cache, blobs[2])
    await cache.reopen(budget=3 * MIB)  # not even three of them, with the directories
    assert [cache.store.contains(blob) for blob in blobs] == [True, False, True, False]


async def test_a_use_does_not_change_what_clients_see_of_a_file(cache: Cache) -> None:
    digest = await cache.put(b"blob")
    path = cache.directory / "blobs" / "sha256" / digest.hex[:2] / digest.hex
    before = path.stat().st_mtime_ns
    use(cache, digest)
    await cache.close()
    assert path.stat().st_mtime_ns == before


async def test_leftovers_of_a_crash_are_removed(cache: Cache) -> None:
    await cache.close()
    digest = Digest.of(b"half")
    (cache.directory / "incoming" / f"alias-{digest.hex}").write_bytes(b"ha")
    await cache.open()
    assert cache.files() == []
    assert await cache.put(b"half") == digest


async def test_what_is_not_ours_is_counted_and_left_alone(cache: Cache) -> None:
    await cache.close()
    digest = Digest.of(b"x")
    shard = cache.directory / "blobs" / "sha256" / "zz"
    shard.mkdir(parents=True)
    strange = [
        cache.directory / "notes.txt",
        cache.directory / "incoming" / "README",
        cache.directory / "blobs" / "sha256" / digest.hex,
        shard / digest.hex,
        cache.directory / "blobs" / "md5",
    ]
    for path in strange:
        path.write_bytes(bytes(10_000))
    (cache.directory / "link").symlink_to("/etc/passwd")
    (cache.directory / "lost+found").mkdir()
    store = await cache.open()
    assert store.unknown_files == len(strange) + 2
    assert store.blob_count == 0
    assert all(path.exists() for path in strange)
    assert store.used_bytes >= len(strange) * 10_000


async def test_what_is_counted_is_what_the_file_system_counts(cache: Cache) -> None:
    for size in (0, 1, 4096, 4097, 200_000, 3 * MIB):
        await cache.put(os.urandom(size))
        assert cache.store.used_bytes == cache.disk_bytes()
    await cache.store.remove(Digest.of(b""))
    assert cache.store.used_bytes == cache.disk_bytes()
    used = cache.store.used_bytes
    await cache.reopen()
    assert cache.store.used_bytes == cache.disk_bytes() == used


# The budget


async def test_the_blob_that_was_used_least_goes_first(cache: Cache) -> None:
    await cache.reopen(budget=4 * MIB)
    blobs = [await cache.put(os.urandom(MIB)) for _ in range(3)]
    use(cache, blobs[0])
    assert cache.store.contains(blobs[1])  # looking is no use
    await cache.put(os.urandom(MIB))
    assert [cache.store.contains(blob) for blob in blobs] == [True, False, True]
    evicted = [event for event in cache.told if event.kind is Kind.EVICTED]
    assert [event.reference for event in evicted] == [blobs[1]]
    assert evicted[0].size == MIB


async def test_a_pinned_blob_stays_until_its_last_pin_is_gone(cache: Cache) -> None:
    await cache.reopen(budget=3 * MIB)
    digest = await cache.put(os.urandom(MIB))
    first, second = cache.store.find(digest), cache.store.find(digest)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    await cache.put(os.urandom(MIB))
    await cache.put(os.urandom(MIB))
    assert cache.store.contains(digest)
    second.release()
    await cache.put(os.urandom(MIB))
    await cache.put(os.urandom(MIB))
    assert not cache.store.contains(digest)


async def test_the_disk_never_holds_more_than_the_budget(cache: Cache) -> None:
    await cache.reopen(budget=6 * MIB)
    seen: list[int] = []
    for round_number in range(30):
        sizes = [1 << (round_number % 5 + 15), 300_000, 1_234_567]
        blobs = [os.urandom(size) for size in sizes]
        fills = [cache.store.fill(Digest.of(blob), ByteSource(blob)) for blob in blobs]
        tasks = [asyncio.create_task(collect(fill.reader())) for fill in fills]
        while not all(task.done() for task in tasks):
            seen.append(cache.disk_bytes())
            assert cache.store.used_bytes + cache.store.reserved_bytes <= 6 * MIB
            await asyncio.wait(tasks, timeout=0)
        assert [task.result() for task in tasks] == blobs
    assert max(seen) <= 6 * MIB
    assert Kind.EVICTED in cache.kinds()


async def test_more_than_the_budget_at_start_is_evicted_before_anything_else(cache: Cache) -> None:
    for _ in range(4):
        await cache.put(os.urandom(MIB))
    await cache.reopen(budget=2 * MIB)
    assert cache.disk_bytes() <= 2 * MIB
    assert cache.store.blob_count == 1


# Removal


async def test_a_removed_blob_is_off_the_disk(cache: Cache) -> None:
    digest = await cache.put(b"blob")
    assert await cache.store.remove(digest)
    assert not await cache.store.remove(digest)
    assert cache.store.find(digest) is None
    assert cache.files() == []
    assert Kind.EVICTED not in cache.kinds()


async def test_a_removed_blob_stays_readable_for_those_who_have_it(cache: Cache) -> None:
    digest = await cache.put(b"blob")
    with cache.store.find(digest) or pytest.fail("not found") as pin:
        assert await cache.store.remove(digest)
        assert cache.store.find(digest) is None
        assert not await cache.store.remove(digest)
        assert pin.path.read_bytes() == b"blob"
        assert not (await cache.store.audit()).mended
        assert cache.store.find(digest) is None
    await cache.close()
    assert cache.files() == []


async def test_a_blob_that_comes_again_waits_for_no_reader_of_the_one_that_was_removed(
    cache: Cache,
) -> None:
    digest = await cache.put(b"blob")
    block = next(cache.store.blobs()).disk
    old = cache.store.find(digest) or pytest.fail("not found")
    assert await cache.store.remove(digest)
    spool = await cache.store.create_spool("again")
    await spool.append(b"blob")
    assert await spool.publish(digest)
    new = cache.store.find(digest) or pytest.fail("not found")
    # The old one may be open, and then its blocks are in use though nobody finds it.
    assert cache.store.used_bytes == cache.disk_bytes() + block
    assert await cache.store.remove(digest)
    cache.told.clear()
    assert await cache.put(b"blob") == digest
    old.release()
    new.release()
    assert cache.store.contains(digest)
    assert old.path.read_bytes() == b"blob"
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_removed_blob_does_not_come_back_after_a_restart(cache: Cache) -> None:
    digest = await cache.put(b"blob")
    with cache.store.find(digest) or pytest.fail("not found"):
        assert await cache.store.remove(digest)
        await cache.reopen()
    assert cache.files() == []


async def test_one_that_is_cancelled_while_it_makes_room_keeps_none(cache: Cache) -> None:
    await cache.reopen(budget=3 * MIB)
    for steps in range(25):
        await cache.put(os.urandom(MIB))
        await cache.put(os.urandom(MIB))
        spool = asyncio.create_task(cache.store.create_spool(f"s{steps}"))
        for _ in range(steps):
            await asyncio.wait([spool], timeout=0)
        spool.cancel()
        result = (await asyncio.gather(spool, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            await result.discard()
        assert cache.store.reserved_bytes == 0
        assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_damaged_file_gives_way_to_the_blob_that_comes_again(cache: Cache) -> None:
    blob = os.urandom(100_000)
    digest = await cache.put(blob)
    path = cache.directory / "blobs" / "sha256" / digest.hex[:2] / digest.hex
    os.truncate(path, 50_000)
    spool = await cache.store.create_spool("again")
    await spool.append(blob)
    assert await spool.publish(digest)
    assert path.read_bytes() == blob
    assert cache.store.blob_count == 1
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_who_joins_a_fill_has_used_the_blob(cache: Cache) -> None:
    blobs = [os.urandom(1000) for _ in range(3)]
    for number, blob in enumerate(blobs):
        fills = [cache.store.fill(Digest.of(blob), ByteSource(blob)) for _ in range(3 - number)]
        await asyncio.gather(*(collect(fill.reader()) for fill in fills))
        await cache.stored(Digest.of(blob))
    # By when they came it would be the other way round.
    assert [stored.digest for stored in cache.store.blobs()] == [
        Digest.of(blob) for blob in reversed(blobs)
    ]


async def test_a_blob_is_kept_from_before_it_is_there(cache: Cache) -> None:
    await cache.reopen(budget=3 * MIB)
    blob = os.urandom(MIB)
    with cache.store.keep(Digest.of(blob)):
        await cache.put(blob)
        for _ in range(4):
            await cache.put(os.urandom(MIB))
        assert cache.store.contains(Digest.of(blob))
    await cache.put(os.urandom(MIB))
    assert not cache.store.contains(Digest.of(blob))


async def test_any_range_of_a_kept_blob_is_read(cache: Cache) -> None:
    blob = os.urandom(MIB)
    digest = await cache.put(blob)
    with cache.store.keep(digest):
        for start, end in ((0, MIB), (5, 6), (300_000, MIB), (7, 7)):
            assert await collect(cache.store.read(digest, start, end)) == blob[start:end]
        with pytest.raises(CacheError):
            await collect(cache.store.read(digest, 0, MIB + 1))
    with pytest.raises(CacheError, match="cannot be opened"):
        await collect(cache.store.read(Digest.of(b"another"), 0, 1))
