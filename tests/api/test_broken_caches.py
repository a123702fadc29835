"""A cache that has lost a blob is answered as not there; what is no proof of that lets it pass."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.config import RegistrySettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.services import completeness
from proxy.services.proofs import PROOF_SECONDS
from proxy.standin import Denial, Fault, StandIn
from tests.api.test_control import ask, socket_of
from tests.caches import ALL_TYPES, NEW, OLD, Cache, only
from tests.clocks import Clock
from tests.running import Answer, RunningProxy, running, settings_for

CACHE = Cache.of(b"layer one" * 1000, b"layer two")
LAYER, KEPT = CACHE.layers
LOST = Digest.of(LAYER)
DIGEST = Digest.of(CACHE.image_manifest)
TAG = "/v2/app/manifests/cache"
BY_DIGEST = f"/v2/app/manifests/{DIGEST}"
BLOB = f"/v2/app/blobs/{LOST}"
MIB = 1024 * 1024
WHOLE_SECONDS = 600.0
BROKEN_SECONDS = 60.0

QUESTION = Fault(server="api", times=None)


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path, clock: Clock) -> AsyncIterator[RunningProxy]:
    """In front of a cache that somebody pushed without it."""
    CACHE.seed(standin, "app", "cache")
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(settings, timing=Timing(clock=clock, now=clock)) as proxy:
        yield proxy


def _assert_broken(answer: Answer) -> None:
    assert answer.status == 404
    reason = answer.headers["Ecr-Cache-Proxy-Error"]
    assert reason.startswith("MANIFEST_UNKNOWN: ")
    assert LOST in reason


def _questions(standin: StandIn) -> int:
    return sum(
        r.server == "api" and "BatchCheckLayerAvailability" in str(r.header("X-Amz-Target"))
        for r in standin.requests
    )


async def _lose(standin: StandIn, proxy: RunningProxy, clock: Clock) -> None:
    """What upstream has lost is on disk, and nothing that was proved of it is left."""
    await proxy.client.ask("GET", BLOB)
    await proxy.until(Kind.STORED)
    standin.state.delete_blob("app", LOST)
    clock.now += 2 * 3600


async def _empty_the_disk(proxy: RunningProxy) -> None:
    """As far as nothing on it is in use."""
    await ask(socket_of(proxy), "prune", to="0")


@pytest.mark.parametrize("lost", [LAYER, CACHE.config], ids=["layer", "config"])
@pytest.mark.parametrize("path", [TAG, BY_DIGEST])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("client", [NEW | ALL_TYPES, OLD | ALL_TYPES, only(OCI_MANIFEST)])
async def test_a_cache_that_has_lost_a_blob_is_a_miss_that_says_why(
    standin: StandIn,
    proxy: RunningProxy,
    lost: bytes,
    path: str,
    method: str,
    client: dict[str, str],
) -> None:
    standin.state.delete_blob("app", Digest.of(lost))
    got = await proxy.client.ask(method, path, headers=client)
    assert got.status == 404
    reason = got.headers["Ecr-Cache-Proxy-Error"]
    assert reason.startswith("MANIFEST_UNKNOWN: ")
    assert Digest.of(lost) in reason
    assert "1 of the 3 blobs" in reason
    (event,) = (event for event in proxy.told if event.kind is Kind.BROKEN)
    assert event.repository == "app"
    assert event.detail in reason


async def test_a_digest_that_an_old_client_knows_is_a_miss_as_well(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    head = await proxy.client.ask("HEAD", TAG, headers=OLD | ALL_TYPES)
    assert head.digest == Digest.of(CACHE.index)
    standin.state.delete_blob("app", LOST)
    clock.now += WHOLE_SECONDS
    _assert_broken(await proxy.client.ask("GET", f"/v2/app/manifests/{head.digest}"))


async def test_what_is_no_cache_is_never_looked_into(standin: StandIn, proxy: RunningProxy) -> None:
    image = CACHE.image_manifest.replace(
        b"vnd.buildkit.cacheconfig.v0", b"vnd.oci.image.config.v1+json"
    )
    standin.state.put_manifest("app", image, OCI_MANIFEST, tag="image")
    standin.state.delete_blob("app", LOST)
    assert (await proxy.client.ask("GET", "/v2/app/manifests/image")).body == image
    assert _questions(standin) == 0


async def test_after_a_push_of_what_it_lacks_a_cache_is_whole_at_once(
    standin: StandIn, proxy: RunningProxy
) -> None:
    standin.state.delete_blob("app", LOST)
    _assert_broken(await proxy.client.ask("GET", TAG))
    await proxy.client.push_blob("app", LAYER)
    assert (await proxy.client.ask("GET", TAG)).body == CACHE.image_manifest


async def test_an_export_over_a_broken_cache_makes_it_whole(
    standin: StandIn, proxy: RunningProxy
) -> None:
    standin.state.delete_blob("app", LOST)
    _assert_broken(await proxy.client.ask("HEAD", TAG, headers=only(OCI_INDEX)))
    await CACHE.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "cache", CACHE.index, OCI_INDEX)
    assert pushed.status == 201
    assert (await proxy.client.ask("GET", TAG, headers=OLD | ALL_TYPES)).body == CACHE.index


async def test_what_ecr_has_just_taken_is_whole(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    """It has looked for every blob itself (ECR.md §4)."""
    cache = Cache.of(b"new")
    await cache.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "new", cache.index, OCI_INDEX)
    assert pushed.status == 201
    await _empty_the_disk(proxy)
    asked = _questions(standin)
    clock.now += WHOLE_SECONDS - 1
    for client in (OLD, NEW):
        got = await proxy.client.ask("GET", "/v2/app/manifests/new", headers=client | ALL_TYPES)
        assert got.status == 200
    assert _questions(standin) == asked


async def test_a_broken_cache_is_looked_at_again_after_a_while(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    standin.state.delete_blob("app", LOST)
    _assert_broken(await proxy.client.ask("GET", TAG))
    standin.state.put_blob("app", LAYER)  # by somebody who does not use this proxy
    clock.now += BROKEN_SECONDS - 1
    _assert_broken(await proxy.client.ask("GET", TAG))
    assert _questions(standin) == 1
    clock.now += 1
    assert (await proxy.client.ask("GET", TAG)).status == 200


async def test_a_whole_cache_is_looked_at_again_after_a_while(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    assert (await proxy.client.ask("GET", TAG)).status == 200
    standin.state.delete_blob("app", LOST)
    clock.now += WHOLE_SECONDS - 1
    assert (await proxy.client.ask("GET", TAG)).status == 200
    assert _questions(standin) == 1
    clock.now += 1
    _assert_broken(await proxy.client.ask("GET", TAG))


@pytest.mark.parametrize(
    "answer",
    [
        replace(
            QUESTION,
            status=400,
            body='{"__type": "ThrottlingException", "message": "Rate exceeded"}',
        ),
        replace(QUESTION, status=500),
        replace(QUESTION, reset=True),
    ],
    ids=["throttled", "internal error", "reset"],
)
async def test_trouble_is_no_proof_of_a_loss(
    standin: StandIn, proxy: RunningProxy, clock: Clock, answer: Fault
) -> None:
    standin.state.delete_blob("app", LOST)
    fault = standin.faults.add(answer)
    heads = standin.faults.add(
        Fault(server="registry", method="HEAD", path="/blobs/", status=429, times=None)
    )
    assert (await proxy.client.ask("GET", TAG)).body == CACHE.image_manifest
    assert Kind.BROKEN not in proxy.kinds()
    # It is not taken for a proof of wholeness, either.
    standin.faults.remove(fault)
    standin.faults.remove(heads)
    clock.now += BROKEN_SECONDS
    _assert_broken(await proxy.client.ask("GET", TAG))


async def test_a_denial_is_no_proof_of_a_loss(standin: StandIn, proxy: RunningProxy) -> None:
    standin.state.delete_blob("app", LOST)
    standin.state.policy.denials.append(Denial("ecr:BatchCheckLayerAvailability"))
    standin.faults.add(
        Fault(server="registry", method="HEAD", path="/blobs/", status=403, times=None)
    )
    assert (await proxy.client.ask("GET", TAG)).body == CACHE.image_manifest


async def test_a_check_that_takes_its_time_holds_no_reader_up(
    standin: StandIn, proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completeness, "_WAIT_SECONDS", 0.05)
    standin.state.delete_blob("app", LOST)
    gate = standin.faults.add(replace(QUESTION, hold=True))
    async with asyncio.timeout(10):
        assert (await proxy.client.ask("GET", TAG)).body == CACHE.image_manifest
    gate.release()
    # It goes on all the same, for those who come later.
    await proxy.until(Kind.BROKEN)
    _assert_broken(await proxy.client.ask("GET", TAG))


async def test_readers_share_one_check(standin: StandIn, proxy: RunningProxy) -> None:
    standin.state.delete_blob("app", LOST)
    gate = standin.faults.add(replace(QUESTION, hold=True))
    readers = [asyncio.create_task(proxy.client.ask("GET", TAG)) for _ in range(5)]
    await gate.reached.wait()
    assert not any(reader.done() for reader in readers)
    gate.release()
    for reader in readers:
        _assert_broken(await reader)
    assert gate.hits == 1
    assert proxy.kinds().count(Kind.BROKEN) == 1


async def test_a_reader_that_leaves_stops_no_check(standin: StandIn, proxy: RunningProxy) -> None:
    standin.state.delete_blob("app", LOST)
    gate = standin.faults.add(replace(QUESTION, hold=True))
    reader = asyncio.create_task(proxy.client.ask("GET", TAG))
    await gate.reached.wait()
    reader.cancel()
    await asyncio.wait([reader])
    gate.release()
    await proxy.until(Kind.BROKEN)


@pytest.mark.parametrize("ask_between", [False, True])
async def test_what_ecr_has_lost_and_the_disk_has_is_still_there(
    standin: StandIn, proxy: RunningProxy, clock: Clock, ask_between: bool
) -> None:
    await _lose(standin, proxy, clock)
    assert (await proxy.client.ask("GET", TAG)).body == CACHE.image_manifest
    if ask_between:  # somebody who pushes must upload it, and takes nothing away from readers
        assert (await proxy.client.ask("HEAD", BLOB)).status == 404
    got = await proxy.client.ask("GET", BLOB)
    assert (got.status, got.body) == (200, LAYER)


async def test_what_ecr_has_lost_stays_on_disk_while_a_reader_may_come_for_it(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    await proxy.client.ask("GET", f"/v2/app/blobs/{Digest.of(KEPT)}")
    await proxy.until(Kind.STORED)
    await _lose(standin, proxy, clock)
    await proxy.until(Kind.STORED, 2)
    assert (await proxy.client.ask("GET", TAG)).status == 200
    await _empty_the_disk(proxy)
    assert Kind.EVICTED in proxy.kinds()
    assert (await proxy.client.ask("GET", BLOB)).body == LAYER


async def test_nobody_gets_what_ecr_has_lost_under_another_repository(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    await _lose(standin, proxy, clock)
    assert (await proxy.client.ask("GET", TAG)).status == 200
    assert (await proxy.client.ask("GET", f"/v2/other/blobs/{LOST}")).status == 404


@pytest.mark.parametrize("status", [401, 403])
async def test_a_denial_of_the_blob_ends_what_the_disk_makes_up_for(
    standin: StandIn, proxy: RunningProxy, clock: Clock, status: int
) -> None:
    await _lose(standin, proxy, clock)
    assert (await proxy.client.ask("GET", TAG)).status == 200
    clock.now += BROKEN_SECONDS
    standin.state.policy.denials.append(Denial("ecr:BatchCheckLayerAvailability"))
    standin.faults.add(Fault(server="registry", path="/blobs/", status=status, times=None))
    for method in ("HEAD", "GET"):
        assert (await proxy.client.ask(method, BLOB)).status == (503 if status == 401 else 403)


async def test_of_another_registry_only_an_answer_of_its_own_makes_up_for_a_loss(
    standin: StandIn, tmp_path: Path, clock: Clock
) -> None:
    """It may take manifests that name what it does not have."""
    for blob in CACHE.blobs:
        standin.state.put_blob("app", blob)
        standin.state.put_blob("other", blob)
    for repository in ("app", "other"):
        standin.state.put_manifest(repository, CACHE.image_manifest, OCI_MANIFEST, tag="cache")
    plain = RegistrySettings(
        name="registry.example",
        url=standin.url,
        username=standin.username,
        password=standin.password,
    )
    async with running(
        settings_for(plain, cache_dir=tmp_path / "plain"), timing=Timing(clock=clock, now=clock)
    ) as proxy:
        assert (await proxy.client.ask("GET", BLOB)).body == LAYER
        await proxy.until(Kind.STORED)
        for repository in ("app", "other"):
            standin.state.delete_blob(repository, LOST)
        clock.now += PROOF_SECONDS  # it is asked again, and an answer of before is remembered
        assert (await proxy.client.ask("GET", TAG)).status == 200
        assert (await proxy.client.ask("GET", BLOB)).body == LAYER
        _assert_broken(await proxy.client.ask("GET", "/v2/other/manifests/cache"))


async def test_a_layer_that_upstream_lost_since_is_kept_for_who_reads_the_cache(
    standin: StandIn, tmp_path: Path
) -> None:
    """That it was there an hour ago, and its bytes are here, keeps nothing from being evicted."""
    clock = Clock()
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=4 * MIB)
    cache = Cache.of(os.urandom(MIB))
    async with running(settings, timing=Timing(clock=clock)) as proxy:
        await cache.push_blobs(proxy.client, "app")
        put = await proxy.client.push_manifest("app", "cache", cache.image_manifest, OCI_MANIFEST)
        assert put.status == 201
        lost = Digest.of(cache.layers[0])
        del standin.state.repository("app").blobs[lost]
        clock.now += 1000
        assert (await proxy.client.ask("GET", "/v2/app/manifests/cache")).status == 200
        for _ in range(8):
            await proxy.client.push_blob("other", os.urandom(MIB // 2))
        clock.now += 3000  # and its proof has ended by now
        got = await proxy.client.ask("GET", f"/v2/app/blobs/{lost}")
        assert (got.status, got.body) == (200, cache.layers[0])
