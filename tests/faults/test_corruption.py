"""Bytes that are not what their digest says: no reader is told that they were all of it."""

from __future__ import annotations

import asyncio

import pytest

from proxy.events import Kind
from proxy.oci import Digest
from proxy.standin import Fault, StandIn
from tests.faults.content import (
    KIB,
    MIB,
    TAIL,
    Taken,
    downloads,
    files,
    noise,
    path_of,
    seed,
    take,
)
from tests.running import RunningProxy

BLOB = noise(2 * MIB + 17, seed=2)
RIGHT = Taken(200, BLOB, whole=True)


async def assert_nothing_is_left(proxy: RunningProxy, digest: Digest) -> None:
    """On disk; and it was said what was wrong with which blob."""
    await proxy.until(Kind.CORRUPT)
    assert files(proxy) == []
    [told] = [event for event in proxy.told if event.kind is Kind.CORRUPT]
    assert told.reference == digest
    assert digest in told.detail
    assert Kind.STORED not in proxy.kinds()


@pytest.mark.parametrize("at", [0, 1, MIB, len(BLOB) - TAIL - 1, len(BLOB) - TAIL, len(BLOB) - 1])
async def test_a_wrong_byte_ends_in_a_broken_connection_and_the_next_request_is_right(
    standin: StandIn, proxy: RunningProxy, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", corrupt_at=at))
    got = await take(proxy, digest)
    assert not got.whole
    assert len(got.body) <= len(BLOB) - TAIL  # not even the number of bytes is right
    await assert_nothing_is_left(proxy, digest)
    assert any(digest in r.getMessage() for r in caplog.records if r.name == "proxy.event_log")
    assert await take(proxy, digest) == RIGHT
    assert len(downloads(standin)) == 2


async def test_every_reader_that_reaches_the_tail_sees_a_broken_connection(
    standin: StandIn, proxy: RunningProxy
) -> None:
    """Whenever they came, and wherever their range begins, if it ends with the blob's end."""
    [digest] = seed(standin, BLOB)
    gate = standin.faults.add(Fault(server="s3", corrupt_at=100, hold_at=MIB))
    early = [asyncio.create_task(take(proxy, digest)) for _ in range(3)]
    await gate.reached.wait()
    ends = ["bytes=0-", f"bytes={MIB}-", "bytes=-1", f"bytes=-{TAIL}", f"bytes=5-{len(BLOB) - 1}"]
    late = [asyncio.create_task(take(proxy, digest, headers={"Range": end})) for end in ends]
    late.append(asyncio.create_task(take(proxy, digest)))
    await proxy.until(Kind.JOIN, len(early) - 1 + len(late))
    gate.release()
    taken = [await task for task in (*early, *late)]
    assert [t.whole for t in taken] == [False] * len(taken)
    assert len(downloads(standin)) == 1
    await assert_nothing_is_left(proxy, digest)
    assert await take(proxy, digest) == RIGHT


@pytest.mark.parametrize("size", [1, TAIL, MIB, len(BLOB) - 1, len(BLOB) + 1, 2 * len(BLOB)])
async def test_a_wrong_length_ends_in_a_broken_connection(
    standin: StandIn, proxy: RunningProxy, size: int
) -> None:
    """All that upstream sends is coherent: it is just another blob."""
    text = "The wrong blob. "
    [digest] = seed(standin, BLOB)
    body = (text * (size // len(text) + 1))[:size]
    standin.faults.add(Fault(server="s3", status=200, body=body))
    got = await take(proxy, digest)
    assert not got.whole
    assert len(got.body) <= max(0, size - TAIL)
    await assert_nothing_is_left(proxy, digest)
    assert await take(proxy, digest) == RIGHT


async def test_no_bytes_at_all_are_an_error_rather_than_an_empty_blob(
    standin: StandIn, proxy: RunningProxy
) -> None:
    """There is no byte to withhold, and a reply that has none is whole with its headers."""
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", status=200, body=""))
    got = await proxy.client.ask("GET", path_of(digest))
    assert got.status == 502
    assert digest in got.body.decode()
    await assert_nothing_is_left(proxy, digest)
    assert await take(proxy, digest) == RIGHT


async def test_a_blob_of_no_bytes_is_served(standin: StandIn, proxy: RunningProxy) -> None:
    [digest] = seed(standin, b"")
    assert await take(proxy, digest) == Taken(200, b"", whole=True)


async def test_a_body_without_a_length_is_withheld_until_it_is_verified_too(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", no_length=True, corrupt_at=0))
    got = await take(proxy, digest)
    assert not got.whole
    assert len(got.body) <= len(BLOB) - TAIL
    await assert_nothing_is_left(proxy, digest)
    assert await take(proxy, digest) == RIGHT


async def test_a_wrong_byte_before_a_cut_is_found_after_it(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", corrupt_at=300 * KIB, cut_after=MIB))
    assert not (await take(proxy, digest)).whole
    await assert_nothing_is_left(proxy, digest)
    assert len(downloads(standin)) == 2


async def test_a_body_that_is_always_wrong_is_never_right(
    standin: StandIn, proxy: RunningProxy
) -> None:
    [digest] = seed(standin, BLOB)
    standin.faults.add(Fault(server="s3", corrupt_at=7, times=None))
    for _ in range(3):
        assert not (await take(proxy, digest)).whole
    assert len(downloads(standin)) == 3  # each request tried anew, none of them twice
    assert files(proxy) == []
