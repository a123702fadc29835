"""A file system that others fill, and a disk that refuses writes: all is served all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from proxy.cache import NoSpace, room, space
from proxy.cache.budget import Budget
from proxy.cache.policy import AgedLfu, Entry
from proxy.cache.room import Health
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.sizes import Share
from tests.cache.conftest import MIB, Cache, collect
from tests.cache.sources import ByteSource
from tests.clocks import Clock


async def _pull(cache: Cache, blob: bytes) -> bool:
    """Whether it came to be stored."""
    digest = Digest.of(blob)
    fill = cache.store.fill(digest, ByteSource(blob))
    assert await collect(fill.reader()) == blob
    await fill.ended()
    return cache.store.contains(digest)


class FileSystem:
    """One of a given size, of which others use `taken` bytes."""

    def __init__(self, cache: Cache, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self._cache = cache
        self._size = size
        self.taken = 0
        monkeypatch.setattr(space, "free_bytes", self.free)
        monkeypatch.setattr(space, "_FRESH", -1.0)  # asked each time

    def free(self, _: str = "") -> int:
        return self._size - self.taken - self._cache.disk_bytes()


async def test_the_floor_of_the_file_system_bounds_what_is_stored(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.close()
    await cache.open(floor=Share(size=2 * MIB))
    disk = FileSystem(cache, monkeypatch, 8 * MIB)
    for _ in range(20):
        assert await _pull(cache, os.urandom(MIB))
        assert disk.free() >= 2 * MIB
    assert Kind.EVICTED in cache.kinds()
    assert cache.store.blob_count >= 4
    assert not await _pull(cache, os.urandom(6 * MIB))
    assert cache.store.reserved_bytes == 0


async def test_what_others_fill_is_made_up_for_by_eviction(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.close()
    await cache.open(floor=Share(size=MIB))
    disk = FileSystem(cache, monkeypatch, 8 * MIB)
    for _ in range(6):
        await _pull(cache, os.urandom(MIB))
    disk.taken = 3 * MIB
    await cache.store.tend()
    assert disk.free() >= MIB
    assert 0 < cache.store.blob_count < 6
    disk.taken = 8 * MIB
    await cache.store.tend()
    assert cache.store.blob_count == 0
    for _ in range(3):
        assert not await _pull(cache, os.urandom(MIB))
    assert cache.kinds().count(Kind.DEGRADED) == 1
    disk.taken = 0
    assert await _pull(cache, os.urandom(MIB))
    assert cache.kinds().count(Kind.RECOVERED) == 1


def test_what_is_reserved_and_not_written_is_as_good_as_taken() -> None:
    budget = Budget(10_000, AgedLfu(), floor=100)
    assert budget.floor_shortage(10_000) == 0  # nothing is known
    mark = budget.mark()
    budget.observe(1100, mark)
    assert budget.floor_shortage(1000) == 0
    assert budget.floor_shortage(1001) == 1
    budget.reserve(600)
    assert budget.floor_shortage(401) == 1
    budget.write(200)
    budget.observe(900, budget.mark())  # 200 of it are on disk by now
    assert budget.floor_shortage(400) == 0
    assert budget.floor_shortage(401) == 1
    budget.release(600, 200)  # the file was moved in, smaller than was thought
    assert budget.floor_shortage(800) == 0
    assert budget.floor_shortage(801) == 1


def test_what_is_granted_while_the_file_system_is_asked_is_not_lost() -> None:
    budget = Budget(10_000, AgedLfu())
    mark = budget.mark()
    budget.reserve(300)
    budget.observe(1000, mark)
    assert budget.floor_shortage(700) == 0
    assert budget.floor_shortage(701) == 1


def test_an_eviction_makes_room_above_the_floor_too() -> None:
    budget = Budget(10_000, AgedLfu(), floor=100)
    budget.add(b"2", Entry(500, 500))
    budget.observe(50, budget.mark())
    assert budget.excess == 50
    entry = budget.leave(b"2")
    assert entry is not None
    budget.gone(entry)
    assert budget.excess == 0
    assert budget.floor_shortage(450) == 0


def test_what_the_file_system_has_counted_as_free_is_not_counted_again() -> None:
    budget = Budget(10_000, AgedLfu())
    for key in (b"1", b"2"):
        budget.add(key, Entry(300, 300))
    first = budget.leave(b"1")
    assert first is not None
    budget.observe(1000, budget.mark())  # be its file there still or not
    second = budget.leave(b"2")
    assert second is not None
    budget.gone(first)
    assert budget.floor_shortage(1001) == 1
    budget.gone(second)
    assert budget.floor_shortage(1300) == 0
    assert budget.floor_shortage(1301) == 1


def test_what_stays_on_disk_after_all_frees_nothing() -> None:
    budget = Budget(10_000, AgedLfu())
    for number, end in enumerate((budget.stay, budget.reuse)):
        key = bytes([number])
        budget.add(key, Entry(300, 300))
        budget.observe(1000, budget.mark())
        entry = budget.leave(key)
        assert entry is not None
        end(entry)
        assert budget.used == 0
        assert budget.floor_shortage(1001) == 1
    budget.release(300, 300)
    assert budget.floor_shortage(1001) == 1


def _health(clock: Callable[[], float]) -> tuple[Health, list[Kind]]:
    told: list[Event] = []
    events = Events()
    events.subscribe(told.append)
    kinds: list[Kind] = []
    events.subscribe(lambda event: kinds.append(event.kind))
    return Health(events, pause=5.0, clock=clock), kinds


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_refuses_is_left_alone_for_longer_and_longer(code: int) -> None:
    clock = Clock()
    start = clock.now
    health, kinds = _health(clock)
    health.check()
    health.refused(OSError(code, os.strerror(code)))
    for _ in range(3):  # those who were writing at the same time
        health.refused(OSError(code, os.strerror(code)))
    with pytest.raises(NoSpace, match=os.strerror(code)):
        health.check()
    clock.now = start + 5.0
    health.check()
    health.refused(OSError(code, os.strerror(code)))
    clock.now = start + 14.0
    with pytest.raises(NoSpace):
        health.check()
    clock.now = start + 15.0
    health.check()
    health.took()
    assert kinds == [Kind.DEGRADED, Kind.RECOVERED]
    health.refused(OSError(code, os.strerror(code)))
    clock.now = start + 20.0
    health.check()


def test_a_pause_has_an_end() -> None:
    clock = Clock()
    health, _ = _health(clock)
    for _ in range(20):
        health.refused(OSError(errno.EIO, "Input/output error"))
        clock.now += room._PAUSE_MAX
        health.check()


def test_what_is_not_the_disks_refusal_is_not_held_against_it() -> None:
    health, kinds = _health(Clock())
    health.refused(OSError(errno.ENOENT, "No such file or directory"))
    health.check()
    assert kinds == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_refused_write_stops_storing_for_a_while_and_costs_no_reader_anything(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    await cache.close()
    await cache.open(pause=3600.0)
    stored = os.urandom(MIB)
    assert await _pull(cache, stored)
    real, position = os.pwrite, 2 * MIB

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset >= position:
            raise OSError(code, os.strerror(code))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert not await _pull(cache, os.urandom(3 * MIB))
    assert cache.kinds().count(Kind.DEGRADED) == 1
    assert (await cache.store.usage()).degraded
    # Nothing is tried meanwhile, and what is there is served.
    monkeypatch.setattr(os, "pwrite", real)
    assert not await _pull(cache, os.urandom(1000))
    with pytest.raises(NoSpace):
        await cache.store.create_spool("upload")
    assert await collect(cache.store.fill(Digest.of(stored), ByteSource(b"")).reader()) == stored
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()
    loop_time = cache.store.space.health._clock
    monkeypatch.setattr(cache.store.space.health, "_clock", lambda: loop_time() + 3600.0)
    assert await _pull(cache, os.urandom(1000))
    assert cache.kinds().count(Kind.RECOVERED) == 1
    assert not (await cache.store.usage()).degraded


async def test_a_refused_fsync_stores_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert not await _pull(cache, os.urandom(MIB))
    assert Kind.DEGRADED in cache.kinds()
    assert cache.files() == []
    assert await _pull(cache, os.urandom(MIB))
