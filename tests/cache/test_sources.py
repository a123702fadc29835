"""A source that breaks off: how often, and how soon, it is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.cache.errors import Corrupt, FillFailed
from proxy.cache.sources import Patience, Source, SourceStream, Tap
from proxy.errors import (
    BadGateway,
    BlobUnknown,
    Denied,
    RangeInvalid,
    RegistryError,
    TooManyRequests,
    Unavailable,
    UpstreamRefusal,
)
from proxy.oci import Digest
from tests.cache.sources import ByteSource

KIB = 1024
BLOB = bytes(range(256)) * KIB
DIGEST = Digest.of(BLOB)
QUICK = Patience(attempts=4, first_pause=0.001, longest_pause=0.002)
FOR_EVER = Patience(first_pause=3600.0, longest_pause=3600.0, silence=1e9)


async def drawn(source: Source, patience: Patience = QUICK, start: int = 0) -> bytes:
    async with Tap(source, DIGEST, start, patience=patience) as tap:
        return b"".join([chunk async for chunk in tap.chunks()])


class Reluctant:
    """A source that raises, or hangs, when it is opened again; so often, None: for good."""

    def __init__(self, source: ByteSource, error: Exception | None, *, times: int | None) -> None:
        self._source = source
        self._error = error
        self._times = times
        self.asked = 0
        self.hanging = asyncio.Event()
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def open(self, start: int, end: int | None = None) -> AsyncIterator[SourceStream]:
        self.asked += 1
        if self.asked > 1 and (self._times is None or self.asked <= 1 + self._times):
            if self._error is None:
                self.hanging.set()
                await asyncio.Event().wait()
            else:
                raise self._error
        async with self._source.open(start, end) as stream:
            yield stream
        self.closed.set()


async def test_what_brings_too_little_so_often_in_a_row_is_given_up() -> None:
    at = 64 * KIB
    source = ByteSource(BLOB, cuts=[at] * 100)
    with pytest.raises(FillFailed, match=f"{DIGEST} broke off after {at} of {len(BLOB)} bytes"):
        await drawn(source)
    assert source.opened == [0, *[at] * QUICK.attempts]
    assert source.open_now == 0


async def test_bytes_that_come_by_the_handful_are_no_progress() -> None:
    """Else what breaks off after every few bytes would be asked for them without end."""
    source = ByteSource(BLOB, chunk=10, cuts=list(range(10, len(BLOB), 10)))
    with pytest.raises(FillFailed, match="broke off after 40 of"):
        await drawn(source)
    assert source.opened == [0, 10, 20, 30]


async def test_progress_renews_the_patience() -> None:
    cuts = [at for at in range(64 * KIB, len(BLOB), 64 * KIB) for _ in range(QUICK.attempts - 1)]
    source = ByteSource(BLOB, cuts=cuts.copy())
    assert await drawn(source) == BLOB
    assert source.opened == [0, *cuts]


async def test_after_progress_there_is_no_pause() -> None:
    source = ByteSource(BLOB, cuts=[64 * KIB, 128 * KIB])
    assert await drawn(source, FOR_EVER) == BLOB


async def test_a_blob_that_is_shorter_than_was_promised_is_not_right() -> None:
    source = Reluctant(ByteSource(BLOB, cuts=[100 * KIB]), RangeInvalid("no byte"), times=None)
    with pytest.raises(Corrupt, match=f"{len(BLOB)} bytes .* ends at {100 * KIB}"):
        await drawn(source, FOR_EVER)


@pytest.mark.parametrize(
    "refusal",
    [
        BlobUnknown("gone"),
        Denied("not any more"),
        UpstreamRefusal("no", code="UNKNOWN", status=400),
    ],
    ids=lambda refusal: type(refusal).__name__,
)
async def test_a_refusal_is_not_asked_for_twice(refusal: RegistryError) -> None:
    source = Reluctant(ByteSource(BLOB, cuts=[100 * KIB]), refusal, times=None)
    with pytest.raises(FillFailed, match=f"{DIGEST} broke off after .*{refusal.message}"):
        await drawn(source, FOR_EVER)
    assert source.asked == 2


@pytest.mark.parametrize(
    "trouble",
    [
        BadGateway("it dropped the connection"),
        Unavailable("SlowDown"),
        TooManyRequests("slower"),
        UpstreamRefusal("it took too long", code="UNKNOWN", status=408),
        OSError("no route"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
async def test_trouble_is_waited_out(trouble: Exception) -> None:
    source = Reluctant(ByteSource(BLOB, cuts=[100 * KIB]), trouble, times=QUICK.attempts - 1)
    assert await drawn(source) == BLOB


async def test_what_breaks_after_the_last_byte_is_whole() -> None:
    source = ByteSource(BLOB, cuts=[len(BLOB)])
    assert await drawn(source) == BLOB
    assert source.opened == [0]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("end", [100 * KIB + 1, 128 * KIB, len(BLOB), len(BLOB) + 1])
async def test_a_range_ends_where_it_is_to_end_though_it_was_cut(end: int, ranges: bool) -> None:
    source = ByteSource(BLOB, cuts=[100 * KIB], ranges=ranges)
    async with Tap(source, DIGEST, 5, end=end, patience=QUICK) as tap:
        assert b"".join([chunk async for chunk in tap.chunks()]) == BLOB[5:end]
    assert source.opened == [5, 100 * KIB]
    assert source.open_now == 0


async def test_a_pause_is_cancelled_with_its_reader_and_holds_nothing() -> None:
    source = Reluctant(ByteSource(BLOB, cuts=[1]), None, times=None)
    reading = asyncio.create_task(drawn(source, FOR_EVER))
    await source.closed.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.asked == 1


async def test_a_reader_who_takes_long_does_not_use_up_the_patience() -> None:
    source = ByteSource(BLOB, chunk=128 * KIB, cuts=[128 * KIB])
    async with Tap(source, DIGEST, patience=Patience(silence=0.2)) as tap:
        chunks = tap.chunks()
        got = await anext(chunks)
        await asyncio.sleep(0.3)  # longer than the patience, which is the point
        assert got + b"".join([chunk async for chunk in chunks]) == BLOB


async def test_no_attempt_is_made_long_after_the_last_byte() -> None:
    source = ByteSource(BLOB, cuts=[1] * 100)
    with pytest.raises(FillFailed, match="broke off after 1 of"):
        await drawn(source, Patience(first_pause=3600.0, longest_pause=3600.0, silence=45.0))
    assert source.opened == [0]


async def test_a_source_that_does_not_answer_is_given_up() -> None:
    source = Reluctant(ByteSource(BLOB, cuts=[100 * KIB]), None, times=None)
    with pytest.raises(FillFailed, match="did not answer in time"):
        await drawn(source, Patience(silence=0.1))
    assert source.hanging.is_set()


def test_pauses_grow_up_to_a_bound_and_are_jittered() -> None:
    patience = Patience(first_pause=1.0, longest_pause=5.0)
    assert patience.pause(0) == 0
    for fruitless, longest in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (50, 5.0)]:
        pauses = {patience.pause(fruitless) for _ in range(200)}
        assert len(pauses) > 100
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest


def test_all_of_the_patience_is_shorter_than_what_clients_have() -> None:
    patience = Patience()
    pauses = sum(
        min(patience.longest_pause, patience.first_pause * 2**n) for n in range(patience.attempts)
    )
    assert pauses < patience.silence < 60
