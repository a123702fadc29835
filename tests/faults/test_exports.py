"""Exports while upstream fails: one request at a time, and at random. Nothing else fails.

The stand-in checks no layers: that what it stores is complete is the proxy's own doing.
The seed of what is random is printed with a failure; FAULTS_SEED=… draws the same again.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.oci import OCI_INDEX, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from tests.caches import OLD, Cache, only
from tests.commits import assert_all_is_committed
from tests.exporter import Exchange, Export, Exporter
from tests.faults.conftest import QUICK
from tests.faults.content import KIB, noise
from tests.running import RunningProxy, running, settings_for

SIZES = (2 * KIB, 40 * KIB, 1, 300 * KIB)
# Two in a row that met nothing: there are no more requests than that.
BEYOND = 2
ROUNDS, PUSHERS = 20, 2
EXPORTS = 60
# Requests that an export makes upstream, in any way.
LEAST, MOST = len(SIZES) + 1, 3 * (len(SIZES) + 1) + 4

_EXPIRED = {
    "errors": [
        {
            "code": "DENIED",
            "message": "Your authorization token has expired. Reauthenticate and try again.",
        }
    ]
}
KINDS: Mapping[str, Fault] = {
    "reset": Fault(reset=True),
    "reset after the work": Fault(lose_reply=True),
    "reset in the body": Fault(request_cut=1000),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "expired token": Fault(server="registry", status=403, body=json.dumps(_EXPIRED)),
}

ONE_BY_ONE = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    settings = StandInSettings(create_on_push=("ROOT",), rate_limits=False, check_layers=False)
    async with StandIn(settings) as standin:
        # A manifest that did not wait would come before its last blob.
        standin.faults.add(Fault(path="/blobs/uploads/.", times=None, latency=0.01))
        yield standin


def new_cache(seed: int) -> Cache:
    return Cache.of(*(noise(size, seed=seed * 10 + n) for n, size in enumerate(SIZES)))


async def export(
    proxy: RunningProxy, repository: str, cache: Cache, *, tag: str = "cache"
) -> Export:
    """As BuildKit, but for the length of its pauses."""
    async with Exporter(f"http://{proxy.address}", pauses=(0.01, 0.02, 0.04)) as exporter:
        return await exporter.export(repository, tag, cache)


async def assert_reads_back(proxy: RunningProxy, repository: str, cache: Cache) -> None:
    path = f"/v2/{repository}/manifests/{Digest.of(cache.index)}"
    got = await proxy.client.ask("GET", path, headers={**only(OCI_INDEX), **OLD})
    assert (got.status, got.body) == (200, cache.index), got
    for blob in cache.blobs:
        got = await proxy.client.ask("GET", f"/v2/{repository}/blobs/{Digest.of(blob)}")
        assert (got.status, got.body) == (200, blob), got


async def each_request(
    standin: StandIn, proxy: RunningProxy, kind: str, name: str, *, there: bool = False
) -> int:
    """Export once for every request that an export makes upstream, and have that one fail.

    Each goes to a repository of its own, which has the cache already if it is `there`. Gives how
    many failed; the last exports met nothing, as they had fewer requests than that.
    """
    failures: dict[int, Exchange] = {}
    count, missed = 0, 0
    while missed < BEYOND:
        repository, cache = f"{name}/{count + missed}", new_cache(count + missed)
        if there:
            await export_straight(standin, repository, cache)
        path = rf"^/$|/{repository}/"
        fault = standin.faults.add(replace(KINDS[kind], path=path, skip=count + missed))
        done = await export(proxy, repository, cache)
        standin.faults.remove(fault)
        if done.failure is None:
            await assert_reads_back(proxy, repository, cache)
        elif not is_silent_denial(done.failure):
            failures[count + missed] = done.failure
        count, missed = (count + missed + 1, 0) if fault.hits else (count, missed + 1)
    assert not failures, _words(failures)
    return count


def is_silent_denial(failure: Exchange) -> bool:
    """A 403 to a HEAD may be of an expired token, which a young one is not taken for."""
    return failure.method == "HEAD" and failure.status == 403


def _words(failures: Mapping[int, Exchange]) -> str:
    return "".join(f"\n{n}: {e.method} {e.path} {e.status} {e.error}" for n, e in failures.items())


async def export_straight(standin: StandIn, repository: str, cache: Cache) -> None:
    login = standin.username, standin.password
    async with Exporter(standin.url, login=login) as exporter:
        done = await exporter.export(repository, "cache", cache, image_manifest=True)
    assert done.failure is None


@ONE_BY_ONE
async def test_an_export_succeeds_whichever_request_fails(
    standin: StandIn, proxy: RunningProxy, kind: str
) -> None:
    count = await each_request(standin, proxy, kind, "first")
    assert count > LEAST
    assert assert_all_is_committed(standin) > LEAST


@ONE_BY_ONE
async def test_an_unchanged_export_succeeds_whichever_request_fails(
    standin: StandIn, proxy: RunningProxy, kind: str
) -> None:
    """It is another proxy that exported it before."""
    await each_request(standin, proxy, kind, "again", there=True)
    assert_all_is_committed(standin)


@pytest.mark.parametrize("status", [429, 503])
async def test_an_export_waits_as_long_as_upstream_asks_it_to(
    standin: StandIn, proxy: RunningProxy, status: int
) -> None:
    """Whichever request is told so; each of them has an export, all at once for the time's sake."""
    faults, exports = [], []
    for number in range(MOST):
        repository = f"waiting/{number}"
        fault = Fault(status=status, headers={"Retry-After": "1"}, skip=number)
        faults.append(standin.faults.add(replace(fault, path=f"/{repository}/")))
        exports.append(export(proxy, repository, new_cache(number)))
    done = await asyncio.gather(*exports)
    failures = {number: each.failure for number, each in enumerate(done) if each.failure}
    assert not failures, _words(failures)
    met = [number for number, fault in enumerate(faults) if fault.hits]
    assert len(met) > LEAST
    # Blobs may have been on their way meanwhile; the manifest came after whatever was late.
    assert all(done[number].seconds >= 1 for number in met)
    assert assert_all_is_committed(standin) == MOST


@pytest.mark.parametrize(("reads", "seconds"), [(1, 0.0), (2, 0.0), (0, 3600.0)])
async def test_what_was_just_pushed_is_there_though_upstream_lags(
    standin: StandIn, proxy: RunningProxy, reads: int, seconds: float
) -> None:
    standin.state.lag_reads, standin.state.lag_seconds = reads, seconds
    cache = new_cache(1)
    done = await export(proxy, "lagging", cache)
    assert done.failure is None
    await assert_reads_back(proxy, "lagging", cache)
    again = await export(proxy, "lagging", cache, tag="other")
    assert again.failure is None
    assert again.uploaded == set()
    assert_all_is_committed(standin)


async def test_exports_survive_what_is_drawn_at_random(
    standin: StandIn, proxy: RunningProxy, chance: random.Random
) -> None:
    """Each succeeds or is told why not; once upstream is well again, each succeeds."""
    failed = 0
    for number in range(ROUNDS):
        names = [f"random/{number}/{pusher}" for pusher in range(PUSHERS)]
        caches = [new_cache(number * PUSHERS + pusher) for pusher in range(PUSHERS)]
        armed = []
        for _ in range(chance.randint(1, 5)):
            fault = KINDS[chance.choice(list(KINDS))]
            skip, times = chance.randrange(16 * PUSHERS), chance.randint(1, 3)
            fault = replace(fault, skip=skip, times=times, headers={})
            armed.append(standin.faults.add(fault))
        pushes = (export(proxy, *each) for each in zip(names, caches, strict=True))
        for done in await asyncio.gather(*pushes):
            if done.failure is not None:
                failed += not is_silent_denial(done.failure)
                assert done.failure.status >= 400, done.failure
                assert done.failure.error or done.failure.method == "HEAD", done.failure
        for each in armed:
            standin.faults.remove(each)
        for name, cache in zip(names, caches, strict=True):
            assert (await export(proxy, name, cache)).failure is None
            await assert_reads_back(proxy, name, cache)
    assert assert_all_is_committed(standin) == ROUNDS * PUSHERS
    assert failed <= ROUNDS * PUSHERS // 10


async def test_throttled_pushers_wait_and_none_of_them_fails(tmp_path: Path) -> None:
    """Eight of them, at more than the ten manifests a second that ECR takes."""
    numbers = iter(range(EXPORTS))

    async def push(address: str) -> list[Export]:
        async with Exporter(f"http://{address}", pauses=()) as exporter:
            return [
                await exporter.export(f"throttled/{n % 3}", f"tag-{n}", new_cache(n))
                for n in numbers
            ]

    standin_settings = StandInSettings(
        create_on_push=("ROOT",), rate_limits=False, rates={"PutImage": 10}, check_layers=False
    )
    async with StandIn(standin_settings) as standin:
        settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
        async with running(settings, timing=QUICK) as proxy:
            pushed = await asyncio.gather(*(push(proxy.address) for _ in range(8)))
        exports = [export for pusher in pushed for export in pusher]
        assert len(exports) == EXPORTS
        assert [each.failure for each in exports if each.failure] == []
        assert max(each.longest_wait for each in exports) < 30
        assert assert_all_is_committed(standin) == EXPORTS


@pytest.fixture
async def strict() -> AsyncIterator[StandIn]:
    settings = StandInSettings(create_on_push=("ROOT",), rate_limits=False)
    async with StandIn(settings) as standin:
        yield standin


async def test_a_layer_deleted_behind_the_proxys_back_is_put_back_by_a_push(
    strict: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(strict), cache_dir=tmp_path / "cache")
    async with running(settings, timing=QUICK) as proxy:
        cache = new_cache(1)
        assert (await export(proxy, "app", cache)).failure is None
        strict.state.delete_blob("app", Digest.of(cache.layers[1]))
        assert (await export(proxy, "app", cache, tag="other")).failure is None
    # It is there by a later PUT than the first manifest's.
    assert Digest.of(cache.layers[1]) in strict.state.repository("app").blobs
    assert Digest.of(cache.image_manifest) == strict.state.repository("app").tags["other"]


@pytest.mark.parametrize("gone", range(len(SIZES) + 1))
async def test_a_cache_that_lost_a_blob_is_a_miss(
    strict: StandIn, tmp_path: Path, gone: int
) -> None:
    """The config, which is the last of them, too."""
    cache = new_cache(1)
    await export_straight(strict, "app", cache)
    strict.state.delete_blob("app", Digest.of(cache.blobs[gone]))
    settings = settings_for(registry_of(strict), cache_dir=tmp_path / "cache")
    async with running(settings, timing=QUICK) as proxy:
        for method in ("HEAD", "GET"):
            got = await proxy.client.ask(method, "/v2/app/manifests/cache", headers={**OLD})
            assert got.status == 404
        assert json.loads(got.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        # Its next export is whole again, and then so is the cache.
        assert (await export(proxy, "app", cache)).failure is None
        await assert_reads_back(proxy, "app", cache)
