"""Looking after a store: what is told of it, and when the background does it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cache import BlobStore, CacheError
from proxy.events import Events
from proxy.oci import Digest
from proxy.services.upkeep import Limits, Rounds, Upkeep, verify_in_rounds
from proxy.sizes import Share
from tests.filled import ROOMY, damage, put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BlobStore]:
    store = await BlobStore.open(tmp_path, budget=ROOMY, events=Events())
    await store.settled()
    yield store
    await store.close()


async def told(upkeep: Upkeep, operation: str, **arguments: Any) -> list[dict[str, Any]]:
    return [message async for message in upkeep.perform(operation, arguments)]


async def test_a_long_list_comes_in_pages_that_are_complete_and_in_order(store: BlobStore) -> None:
    for number in range(450):
        await put(store, str(number).encode())
    pages = await told(Upkeep(store), "ls")
    assert len(pages) > 1
    listed = [blob["digest"] for page in pages for blob in page["blobs"]]
    assert listed == [blob.digest for blob in store.blobs()]
    assert len(listed) == 450


async def test_a_verify_counts_all_and_names_what_is_damaged(
    store: BlobStore, tmp_path: Path
) -> None:
    digests = [await put(store, os.urandom(5000)) for _ in range(3)]
    damage(tmp_path, digests[1])
    first, *messages, audit, last = await told(Upkeep(store), "verify", rate=0)
    assert first == {"total": 15000}
    assert [message["damaged"] for message in messages if "damaged" in message] == [digests[1]]
    assert set(audit) == {"audit"}
    assert last == {"verified": {"blobs": 3, "size": 15000, "damaged": 1}}
    assert not store.contains(digests[1])


async def test_a_prune_stops_where_it_is_told(store: BlobStore) -> None:
    for _ in range(20):
        await put(store, os.urandom(1024 * 1024))
    target = 10 * 1024 * 1024
    first, *_, last = await told(Upkeep(store), "prune", to=str(target))
    assert first["total"] > target * 0.9
    assert last["pruned"]["enough"]
    assert last["pruned"]["target"] == target
    assert target - 2 * 1024 * 1024 < store.used_bytes <= target
    assert store.blob_count > 5


async def test_a_prune_tells_that_what_is_left_is_in_use(store: BlobStore) -> None:
    digest = await put(store, os.urandom(1024 * 1024))
    pinned = store.find(digest)
    assert pinned is not None
    with pinned:
        *_, held = await told(Upkeep(store), "prune", to="0")
        assert not held["pruned"]["enough"]
        assert pinned.path.stat().st_size == pinned.size
    *_, free = await told(Upkeep(store), "prune", to="0")
    assert free["pruned"]["enough"]
    assert not store.contains(digest)


@pytest.mark.parametrize("limits", [None, Limits(4 * 1024 * 1024, Share())])
async def test_a_percentage_is_of_the_settings(store: BlobStore, limits: Limits | None) -> None:
    (*_, last) = await told(Upkeep(store, limits), "prune", to="50%")
    assert last["pruned"]["target"] == (limits.size if limits else ROOMY) // 2


async def test_limits_are_told_in_place_of_the_stores_own(store: BlobStore) -> None:
    (message,) = await told(Upkeep(store, Limits(123, Share(size=45))), "stats")
    assert (message["usage"]["limit"], message["usage"]["floor"]) == (123, 45)
    (message,) = await told(Upkeep(store), "stats")
    assert message["usage"]["limit"] == ROOMY


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("format", {}),
        ("ls", []),
        ("verify", {}),
        ("verify", {"rate": -1}),
        ("verify", {"rate": "1"}),
        ("rm", {"digests": "sha256:"}),
        ("rm", {"digests": ["../../lock"]}),
        ("prune", {"to": "200%"}),
        ("prune", {"to": "much"}),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_done(
    store: BlobStore, operation: str, arguments: object
) -> None:
    with pytest.raises(ValueError, match=r"."):
        Upkeep(store).perform(operation, arguments)


class _Failing(BlobStore):
    """Cannot be verified the first time."""

    failures = 1

    async def settled(self) -> None:
        if self.failures:
            self.failures -= 1
            raise CacheError("the disk is away")


class _Nights:
    """A clock that only a sleep moves on, and that ends after so many."""

    def __init__(self, nights: int, *, work: float) -> None:
        self.slept: list[float] = []
        self.now = 0.0
        self._nights = nights
        self._work = work

    def clock(self) -> float:
        self.now += self._work
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) > self._nights:
            raise asyncio.CancelledError
        self.now += seconds


@pytest.mark.parametrize(("work", "pause"), [(10.0, 3590.0), (5000.0, 0.0)])
async def test_rounds_begin_an_hour_apart_or_one_after_the_other(
    store: BlobStore, work: float, pause: float
) -> None:
    nights = _Nights(3, work=work)
    with pytest.raises(asyncio.CancelledError):
        await verify_in_rounds(
            store, rate=1, rounds=Rounds(), clock=nights.clock, sleep=nights.sleep
        )
    assert nights.slept == [300.0, pause, pause, pause]


async def test_a_round_that_fails_is_logged_and_the_next_one_finds_the_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await _Failing.open(tmp_path, budget=ROOMY, events=Events())
    digest: Digest = await put(store, os.urandom(1000))
    damage(tmp_path, digest)
    nights = _Nights(2, work=0.0)
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await verify_in_rounds(
            store, rate=10**9, rounds=Rounds(), clock=nights.clock, sleep=nights.sleep
        )
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the background verify failed",
        "background verify: 1 blobs, 1 of them damaged",
    ]
    assert not store.contains(digest)
    await store.close()
