"""A client's question whether a blob is there: asked upstream as seldom as is safe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.services.existence import FRESH_SECONDS
from proxy.services.proofs import PROOF_SECONDS
from proxy.standin import Fault, StandIn, StandInSettings
from tests.caches import Cache
from tests.clocks import Clock
from tests.running import RunningProxy, running, settings_for

CACHE = Cache.of(*(os.urandom(20_000) for _ in range(40)))
DIGESTS = [Digest.of(blob) for blob in CACHE.blobs]
BLOB = CACHE.layers[0]


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path, clock: Clock) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(settings, timing=Timing(clock=clock)) as proxy:
        yield proxy


@pytest.fixture
def seeded(standin: StandIn) -> StandIn:
    CACHE.seed(standin, "app", "cache")
    return standin


def _path(digest: Digest, repository: str = "app") -> str:
    return f"/v2/{repository}/blobs/{digest}"


async def _status(proxy: RunningProxy, digest: Digest, repository: str = "app") -> int:
    head = await proxy.client.ask("HEAD", _path(digest, repository))
    return head.status


def _questions(standin: StandIn) -> int:
    """What upstream was asked of blobs, in whatever way."""
    return sum(
        r.method == "HEAD" or (r.header("X-Amz-Target") or "").endswith("LayerAvailability")
        for r in standin.requests
    )


async def test_an_export_right_after_a_push_asks_nothing(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    for seconds in (0, PROOF_SECONDS - 1):
        clock.now += seconds
        for blob in CACHE.blobs:
            head = await proxy.client.ask("HEAD", _path(Digest.of(blob)))
            assert (head.status, int(head.headers["Content-Length"])) == (200, len(blob))
    assert _questions(standin) == 0


async def test_an_export_after_an_import_asks_nothing(
    seeded: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    for digest in DIGESTS:
        assert (await proxy.client.ask("GET", _path(digest))).status == 200
    await proxy.until(Kind.STORED, len(DIGESTS))
    asked = _questions(seeded)
    clock.now += FRESH_SECONDS
    for digest in DIGESTS:
        assert await _status(proxy, digest) == 200
    assert _questions(seeded) == asked


async def test_a_blob_that_is_not_on_disk_is_asked_for_once_a_minute(
    seeded: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    for expected in (1, 2):
        for _ in range(3):
            assert await _status(proxy, DIGESTS[0]) == 200
        assert _questions(seeded) == expected
        clock.now += FRESH_SECONDS


async def test_clients_that_ask_at_the_same_time_share_one_question(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    gate = seeded.faults.add(Fault(server="registry", method="HEAD", hold=True))
    asking = [asyncio.create_task(_status(proxy, DIGESTS[0])) for _ in range(8)]
    await gate.reached.wait()
    asking.append(asyncio.create_task(_status(proxy, DIGESTS[0])))
    await proxy.client.ask("GET", "/livez")
    gate.release()
    assert await asyncio.gather(*asking) == [200] * 9
    assert _questions(seeded) == 1


async def test_a_push_is_heard_of_at_once_after_an_absence(
    standin: StandIn, proxy: RunningProxy
) -> None:
    for _ in range(2):
        assert await _status(proxy, DIGESTS[0]) == 404
    await proxy.client.push_blob("app", BLOB)
    assert await _status(proxy, DIGESTS[0]) == 200
    assert _questions(standin) == 1
    assert await _status(proxy, DIGESTS[0], "other") == 404


async def test_a_mount_is_heard_of_at_once_after_an_absence(
    standin: StandIn, proxy: RunningProxy
) -> None:
    standin.state.mounting = True
    await CACHE.push_blobs(proxy.client, "other")
    await proxy.client.push_manifest("other", "cache", CACHE.image_manifest, OCI_MANIFEST)
    assert await _status(proxy, DIGESTS[0]) == 404
    mount = f"/v2/app/blobs/uploads/?mount={DIGESTS[0]}&from=other"
    assert (await proxy.client.ask("POST", mount)).status == 201
    assert await _status(proxy, DIGESTS[0]) == 200


async def test_an_absence_is_no_reason_to_refuse_a_reader(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    """Somebody else may have pushed it since, and whoever reads it holds its manifest."""
    await proxy.client.ask("GET", _path(DIGESTS[0]))
    await proxy.until(Kind.STORED)
    assert await _status(proxy, DIGESTS[0], "other") == 404
    for blob in CACHE.blobs:
        seeded.state.put_blob("other", blob)
    got = await proxy.client.ask("GET", _path(DIGESTS[0], "other"))
    assert (got.status, got.body) == (200, BLOB)


async def test_a_deleted_blob_is_asked_for_again(seeded: StandIn, proxy: RunningProxy) -> None:
    assert await _status(proxy, DIGESTS[0]) == 200
    await proxy.client.ask("DELETE", _path(DIGESTS[0]))
    seeded.state.delete_blob("app", DIGESTS[0])
    assert await _status(proxy, DIGESTS[0]) == 404


async def test_a_file_that_was_cut_is_not_served_to_one_who_asked_before(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("GET", _path(DIGESTS[0]))
    await proxy.until(Kind.STORED)
    await proxy.stop()
    (file,) = proxy.settings.cache_dir.rglob(DIGESTS[0].hex)
    os.truncate(file, 5)
    (proxy.settings.cache_dir / "checkpoint").unlink()  # nobody but upstream knows its length
    await proxy.start()
    head = await proxy.client.ask("HEAD", _path(DIGESTS[0]))
    assert int(head.headers["Content-Length"]) == len(BLOB)
    assert (await proxy.client.ask("GET", _path(DIGESTS[0]))).body == BLOB


async def test_after_a_restart_the_first_question_is_about_the_whole_cache(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    assert (await proxy.client.ask("GET", "/v2/app/manifests/cache")).status == 200
    await proxy.restart()
    before = _questions(seeded)
    for digest in DIGESTS:
        assert await _status(proxy, digest) == 200
    assert _questions(seeded) == before + 1


async def test_a_manifest_that_upstream_does_not_check_grants_nobody_a_blob(
    tmp_path: Path,
) -> None:
    """To name the digest of a private blob is not to have it."""
    settings = StandInSettings(repositories=("app", "other"), check_layers=False)
    async with (
        StandIn(settings) as standin,
        running(settings_for(registry_of(standin), cache_dir=tmp_path)) as proxy,
    ):
        cache = Cache.of(b"private")
        await cache.push_blobs(proxy.client, "other")
        await proxy.until_upstream(*map(Digest.of, cache.blobs))
        put = await proxy.client.push_manifest("app", "mine", cache.image_manifest, OCI_MANIFEST)
        assert put.status == 201
        path = _path(Digest.of(b"private"))
        assert (await proxy.client.ask("GET", path)).status == 404
        assert (await proxy.client.ask("HEAD", path)).status == 404
