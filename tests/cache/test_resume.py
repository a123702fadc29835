"""What is left of a blob that broke off: the next fill goes on with it, after a crash too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing

import pytest

from proxy.cache import FillFailed
from proxy.cache.layout import blob_key, partial_key
from proxy.errors import RangeInvalid
from proxy.events import Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache, collect, collect_into, held
from tests.cache.sources import ByteSource, Stream

BLOB = os.urandom(3 * MIB + 17)
DIGEST = Digest.of(BLOB)
PARTIAL = f"incoming/sha256-{DIGEST.hex}"


async def _stop_at(cache: Cache, offset: int, end: Callable[[], Awaitable[None]]) -> None:
    """Have a fill under way that has so many bytes, and end its process by `end`."""
    source = ByteSource(BLOB)
    gate = source.gate(offset)
    fill = cache.store.fill(DIGEST, source)
    reader = asyncio.create_task(collect(fill.reader()))
    await gate.reached.wait()
    async with aclosing(fill.reader(0, offset)) as pieces:  # all of it is on disk when this ends
        async for _ in pieces:
            pass
    await end()
    with pytest.raises(FillFailed, match=DIGEST):
        await reader


@pytest.mark.parametrize("crashes", [True, False])
@pytest.mark.parametrize("offset", [65536, MIB, 2 * MIB + 5, len(BLOB) - 1])
async def test_a_partial_blob_is_gone_on_with_after_a_restart(
    cache: Cache, offset: int, crashes: bool
) -> None:
    await _stop_at(cache, offset, cache.crash if crashes else cache.close)
    assert cache.files() == [PARTIAL]
    await cache.open()
    assert cache.store.used_bytes == cache.disk_bytes()
    assert not cache.store.contains(DIGEST)
    source = ByteSource(BLOB)
    fill = cache.store.fill(DIGEST, source)
    bodies = tuple(
        await asyncio.gather(
            collect(fill.reader()), collect(fill.reader(10, 20)), collect(fill.reader(offset - 1))
        )
    )
    assert bodies == (BLOB, BLOB[10:20], BLOB[offset - 1 :])
    await cache.stored(DIGEST)
    (start,) = source.opened
    assert offset - 2 * 4096 <= start < offset  # whole pages, and the last byte anew
    assert cache.files() == [f"blobs/sha256/{DIGEST.hex[:2]}/{DIGEST.hex}"]
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_whole_partial_blob_costs_no_more_than_its_last_page(cache: Cache) -> None:
    """A process may be killed between the last byte and the rename."""
    await cache.close()
    (cache.directory / PARTIAL).write_bytes(BLOB)
    await cache.open()
    source = ByteSource(BLOB)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    await cache.stored(DIGEST)
    assert source.opened == [len(BLOB) // 4096 * 4096]


async def test_what_is_there_is_served_before_the_source_goes_on(cache: Cache) -> None:
    await _stop_at(cache, 2 * MIB, cache.crash)
    await cache.open()
    source = ByteSource(BLOB)
    start = 2 * MIB - 4096
    gate = source.gate(start)
    fill = cache.store.fill(DIGEST, source)
    assert await collect(fill.reader(0, start)) == BLOB[:start]
    assert not gate.go.is_set()
    gate.go.set()
    assert await collect(fill.reader()) == BLOB


async def test_a_damaged_partial_blob_is_never_taken_for_right(cache: Cache) -> None:
    await cache.close()
    damaged = bytearray(BLOB[: 2 * MIB])
    damaged[MIB] ^= 1
    (cache.directory / PARTIAL).write_bytes(damaged)
    await cache.open()
    got = bytearray()
    with pytest.raises(FillFailed, match=DIGEST):
        await collect_into(got, cache.store.fill(DIGEST, ByteSource(BLOB)).reader())
    assert len(got) < len(BLOB)
    assert Kind.CORRUPT in cache.kinds()
    assert cache.files() == []
    source = ByteSource(BLOB)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [0]


class _Strict(ByteSource):
    """Refuses a range that begins at its end or beyond, as registries do."""

    def open(self, start: int, end: int | None = None):  # type: ignore[no-untyped-def]  # as above
        if start >= len(self.content) > 0:
            self.opened.append(start)
            raise RangeInvalid("the range asked for has no byte of this blob")
        return super().open(start, end)


@pytest.mark.parametrize("kind", [_Strict, ByteSource])
async def test_more_than_the_blob_is_dropped_for_a_new_beginning(
    cache: Cache, kind: type[ByteSource]
) -> None:
    await cache.close()
    (cache.directory / PARTIAL).write_bytes(BLOB + BLOB)
    await cache.open()
    source = kind(BLOB)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened[-1] == 0
    await cache.stored(DIGEST)
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_source_that_ignores_ranges_begins_anew_and_nothing_is_written_twice(
    cache: Cache,
) -> None:
    await _stop_at(cache, 2 * MIB, cache.crash)
    await cache.open()
    source = ByteSource(BLOB, ranges=False)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    await cache.stored(DIGEST)
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_a_source_that_breaks_for_good_leaves_what_came_to_the_next_fill(
    cache: Cache,
) -> None:
    failing = ByteSource(BLOB, cuts=[MIB] * 100)
    with pytest.raises(FillFailed):
        await collect(cache.store.fill(DIGEST, failing).reader())
    source = ByteSource(BLOB)
    assert await collect(cache.store.fill(DIGEST, source).reader()) == BLOB
    assert source.opened == [MIB - 4096]


async def test_partial_blobs_are_the_first_to_make_room(cache: Cache) -> None:
    await _stop_at(cache, 2 * MIB, cache.crash)
    cache.budget = 6 * MIB
    await cache.open()
    others = [os.urandom(2 * MIB) for _ in range(2)]
    for other in others:
        await collect(cache.store.fill(Digest.of(other), ByteSource(other)).reader())
        await cache.stored(Digest.of(other))
    assert PARTIAL not in cache.files()
    assert all(cache.store.contains(Digest.of(other)) for other in others)
    assert Kind.EVICTED not in cache.kinds()  # which is told of whole blobs


async def test_a_partial_blob_that_finds_no_room_to_grow_streams_through(cache: Cache) -> None:
    await _stop_at(cache, 2 * MIB, cache.crash)
    cache.budget = 2 * MIB + 300_000
    await cache.open()
    assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
    assert cache.kinds()[-1] is Kind.BYPASS
    assert cache.files() == []
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()


async def test_closing_at_any_moment_of_a_resumed_fill_leaves_what_is_accounted_for(
    cache: Cache,
) -> None:
    for steps in range(40):
        await cache.close()
        (cache.directory / PARTIAL).write_bytes(BLOB[: 2 * MIB])
        (cache.directory / "checkpoint").unlink()
        await cache.open()
        reader = asyncio.create_task(collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()))
        for _ in range(steps):
            await asyncio.sleep(0)
        await cache.close()
        await asyncio.gather(reader, return_exceptions=True)
        await cache.open()
        assert cache.store.used_bytes == cache.disk_bytes()
        assert cache.store.reserved_bytes == 0
        await cache.store.remove(DIGEST)


async def test_a_fill_that_nobody_wants_any_more_is_given_up_below_a_bound(cache: Cache) -> None:
    await cache.close()
    await cache.open(abandon_below=2 * MIB)
    source = ByteSource(BLOB)
    gate = source.gate(MIB)
    fill = cache.store.fill(DIGEST, source)
    assert await fill.total() == len(BLOB)
    readers = [fill.reader(), fill.reader()]
    await anext(readers[0])
    await gate.reached.wait()
    await readers[0].aclose()
    await asyncio.sleep(0)
    assert cache.store.is_filling(DIGEST)  # one is left, who has read nothing yet
    await readers[1].aclose()
    await asyncio.sleep(0)
    assert not cache.store.is_filling(DIGEST)
    # The next one goes on with what came.
    again = ByteSource(BLOB)
    assert await collect(cache.store.fill(DIGEST, again).reader()) == BLOB
    assert again.opened == [MIB - 4096]
    assert source.open_now == 0


async def test_a_fill_that_has_come_far_goes_on_without_readers(cache: Cache) -> None:
    await cache.close()
    await cache.open(abandon_below=MIB)
    source = ByteSource(BLOB)
    gate = source.gate(MIB + 65536)
    fill = cache.store.fill(DIGEST, source)
    async with aclosing(fill.reader(0, MIB + 10)) as pieces:
        async for _ in pieces:
            pass
    gate.go.set()
    await cache.stored(DIGEST)
    assert source.opened == [0]


async def test_a_reader_that_comes_as_a_fill_is_given_up_gets_everything(cache: Cache) -> None:
    await cache.close()
    await cache.open(abandon_below=2 * MIB)
    for steps in range(12):
        source = ByteSource(BLOB)
        gate = source.gate(MIB)
        fill = cache.store.fill(DIGEST, source)
        async with aclosing(fill.reader()) as pieces:
            await anext(pieces)
            await gate.reached.wait()
        gate.go.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        assert await collect(cache.store.fill(DIGEST, ByteSource(BLOB)).reader()) == BLOB
        await cache.stored(DIGEST)
        await cache.store.remove(DIGEST)
        cache.told.clear()


async def test_giving_up_a_fill_as_it_begins_anew_gives_back_its_room(cache: Cache) -> None:
    await _stop_at(cache, 2 * MIB, cache.crash)
    await cache.open(abandon_below=4 * MIB)
    opened = asyncio.Event()
    with ExitStack() as stack:

        class Shorter:
            def open(
                self, start: int, end: int | None = None
            ) -> AbstractAsyncContextManager[Stream]:
                # From here on the disk is busy: what there was waits for its removal.
                stack.enter_context(held(cache.store.space.disk))
                opened.set()
                return ByteSource(BLOB[:MIB]).open(start, end)

        reader = cache.store.fill(DIGEST, Shorter()).reader()
        await opened.wait()
        await reader.aclose()
        await asyncio.sleep(0)
        assert not cache.store.is_filling(DIGEST)
    await cache.store.space.claim(partial_key(blob_key(DIGEST)))
    assert cache.store.reserved_bytes == 0
    assert cache.store.used_bytes == cache.disk_bytes()
