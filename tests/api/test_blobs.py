"""Blobs through the proxy: once over the uplink, then from disk, and only to who may have them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from tests.caches import Cache
from tests.running import Client, RunningProxy, running, settings_for, straight_to

BLOB = os.urandom(3 * 1024 * 1024 + 17)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/app/blobs/{DIGEST}"


@pytest.fixture
async def seeded(standin: StandIn) -> StandIn:
    """The blob lies in `app`, and in no other repository, named by a manifest."""
    cache = Cache.of(BLOB)
    async with straight_to(standin) as client:
        await cache.push_blobs(client, "app")
        pushed = await client.push_manifest(
            "app", "cache", cache.image_manifest, "application/vnd.oci.image.manifest.v1+json"
        )
        assert pushed.status == 201
    return standin


def _downloads(standin: StandIn) -> int:
    return sum(r.server == "s3" and r.method == "GET" for r in standin.requests)


async def test_the_second_reader_costs_no_download(seeded: StandIn, proxy: RunningProxy) -> None:
    for _ in range(3):
        got = await proxy.client.ask("GET", PATH)
        assert (got.status, got.body) == (200, BLOB)
        assert int(got.headers["Content-Length"]) == len(BLOB)
        assert got.digest == DIGEST
    assert _downloads(seeded) == 1
    # A reader may come before the file has its final name.
    assert proxy.kinds().count(Kind.HIT) + proxy.kinds().count(Kind.JOIN) == 2


async def test_a_blob_is_there_after_a_restart(seeded: StandIn, proxy: RunningProxy) -> None:
    await proxy.client.ask("GET", PATH)
    await proxy.restart()
    assert (await proxy.client.ask("GET", PATH)).body == BLOB
    assert _downloads(seeded) == 1


async def test_readers_at_the_same_time_share_one_download(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    got = await asyncio.gather(*(proxy.client.ask("GET", PATH) for _ in range(20)))
    assert {answer.body == BLOB for answer in got} == {True}
    assert _downloads(seeded) == 1


async def test_head_names_size_and_digest(seeded: StandIn, proxy: RunningProxy) -> None:
    head = await proxy.client.ask("HEAD", PATH)
    assert (head.status, head.digest, head.body) == (200, DIGEST, b"")
    assert int(head.headers["Content-Length"]) == len(BLOB)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=1000000-", 1_000_000, len(BLOB)),
        ("bytes=-7", len(BLOB) - 7, len(BLOB)),
        (f"bytes=5-{len(BLOB) + 5}", 5, len(BLOB)),
    ],
)
async def test_a_range_is_served_from_disk_and_from_a_running_fill(
    seeded: StandIn, proxy: RunningProxy, header: str, start: int, end: int, cached: bool
) -> None:
    if cached:
        await proxy.client.ask("GET", PATH)
    got = await proxy.client.ask("GET", PATH, headers={"Range": header})
    assert (got.status, got.body) == (206, BLOB[start:end])
    assert got.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BLOB)}"
    assert got.digest == DIGEST


@pytest.mark.parametrize("cached", [False, True])
async def test_a_range_outside_the_blob_is_a_416_in_the_registrys_words(
    seeded: StandIn, proxy: RunningProxy, cached: bool
) -> None:
    if cached:
        await proxy.client.ask("GET", PATH)
    got = await proxy.client.ask("GET", PATH, headers={"Range": f"bytes={len(BLOB)}-"})
    assert got.status == 416
    assert b"RANGE_INVALID" in got.body
    assert got.headers["Content-Range"] == f"bytes */{len(BLOB)}"


@pytest.mark.parametrize("cached", [False, True])
async def test_ranges_that_may_be_ignored_are_answered_whole(
    seeded: StandIn, proxy: RunningProxy, cached: bool
) -> None:
    if cached:
        await proxy.client.ask("GET", PATH)
    for header in ("bytes=0-1,5-6", "lines=1-2", "bytes=-"):
        got = await proxy.client.ask("GET", PATH, headers={"Range": header})
        assert (got.status, got.body) == (200, BLOB), header


async def test_a_range_far_into_a_cold_blob_is_passed_on_unstored(
    standin: StandIn, proxy: RunningProxy
) -> None:
    large = bytes(17 * 1024 * 1024) + b"tail"
    cache = Cache.of(large)
    async with straight_to(standin) as client:
        await cache.push_blobs(client, "app")
        await client.push_manifest(
            "app", "big", cache.image_manifest, "application/vnd.oci.image.manifest.v1+json"
        )
    path = f"/v2/app/blobs/{Digest.of(large)}"
    got = await proxy.client.ask("GET", path, headers={"Range": f"bytes={len(large) - 4}-"})
    assert (got.status, got.body) == (206, b"tail")
    assert Kind.BYPASS in proxy.kinds()
    assert Kind.STORED not in proxy.kinds()


async def test_knowing_a_digest_is_not_enough_under_another_repository(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    assert (await proxy.client.ask("GET", PATH)).status == 200
    await proxy.until(Kind.STORED)
    for method in ("GET", "HEAD"):
        got = await proxy.client.ask(method, f"/v2/other/blobs/{DIGEST}")
        assert got.status == 404
        assert "BLOB_UNKNOWN" in got.headers["Ecr-Cache-Proxy-Error"]


async def test_two_repositories_with_the_same_layer_download_it_once(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("GET", PATH)
    async with straight_to(seeded) as client:
        await client.push_blob("other", BLOB)
    assert (await proxy.client.ask("GET", f"/v2/other/blobs/{DIGEST}")).body == BLOB
    assert _downloads(seeded) == 1


async def test_a_pushed_blob_is_a_hit_for_the_next_reader(
    standin: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.push_blob("app", BLOB)
    assert (await proxy.client.ask("GET", PATH)).body == BLOB
    assert _downloads(standin) == 0


async def test_a_missing_blob_is_a_404_with_ecrs_words(proxy: RunningProxy) -> None:
    missing = Digest.of(b"missing")
    got = await proxy.client.ask("GET", f"/v2/app/blobs/{missing}")
    assert got.status == 404
    assert b"BLOB_UNKNOWN" in got.body
    assert missing.encode() in got.body


async def test_the_blob_that_was_used_least_makes_room(standin: StandIn, tmp_path: Path) -> None:
    blobs = [os.urandom(600_000) for _ in range(3)]
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(replace(settings, cache_size=1_500_000)) as proxy:
        # Until its manifest is there a pushed blob makes room for nothing.
        cache = Cache.of(*blobs[:2])
        await cache.push_blobs(proxy.client, "app")
        manifest = cache.image_manifest
        await proxy.client.push_manifest("app", "cache", manifest, OCI_MANIFEST)
        await _get(proxy.client, blobs[0])
        await proxy.client.push_blob("app", blobs[2])
        assert Kind.EVICTED in proxy.kinds()
        hits = proxy.kinds().count(Kind.HIT)
        await _get(proxy.client, blobs[0])
        await _get(proxy.client, blobs[2])
        assert proxy.kinds().count(Kind.HIT) == hits + 2


async def test_a_blob_larger_than_the_cache_passes_both_ways(
    standin: StandIn, tmp_path: Path
) -> None:
    cache = Cache.of(BLOB)
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=1 << 20)
    async with running(settings) as proxy:
        await cache.push_blobs(proxy.client, "app")
        pushed = await proxy.client.push_manifest(
            "app", "cache", cache.image_manifest, "application/vnd.oci.image.manifest.v1+json"
        )
        assert pushed.status == 201
        assert (await proxy.client.ask("GET", PATH)).body == BLOB
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())  # noqa: ASYNC240 after the end
    assert stored <= 1 << 20


async def test_a_deleted_blob_is_gone_though_its_bytes_are_on_disk(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("GET", PATH)
    seeded.state.delete_blob("app", DIGEST)
    await proxy.restart()  # what was heard before is forgotten
    assert (await proxy.client.ask("HEAD", PATH)).status == 404
    assert (await proxy.client.ask("GET", PATH)).status == 404


async def test_a_blob_whose_file_has_vanished_is_fetched_again(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    """A 404 would kill the build that needs the blob (BUILDKIT.md, "Request sequences")."""
    await proxy.client.ask("GET", PATH)
    await proxy.restart()
    (file,) = proxy.settings.cache_dir.rglob(DIGEST.hex)
    file.unlink()
    for header in ({}, {"Range": f"bytes=0-{len(BLOB) - 1}"}):
        got = await proxy.client.ask("GET", PATH, headers=header)
        assert got.body == BLOB
    assert _downloads(seeded) == 2


@pytest.mark.parametrize(
    "header", ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]
)
async def test_conditions_are_of_no_account_whether_on_disk_or_not(
    seeded: StandIn, proxy: RunningProxy, header: str
) -> None:
    value = "*" if "Match" in header else "Fri, 01 Jan 2100 00:00:00 GMT"
    if "Un" in header:
        value = "Fri, 01 Jan 2010 00:00:00 GMT"
    for _ in range(2):
        got = await proxy.client.ask("GET", PATH, headers={header: value})
        assert (got.status, got.body) == (200, BLOB)
        await proxy.restart()


async def test_readers_who_wait_for_the_same_trouble_hear_of_it_together(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    """Not one after another, each with upstream's patience before its own."""
    gate = seeded.faults.add(Fault(server="registry", method="GET", path="/blobs/", hold=True))
    failing = seeded.faults.add(
        Fault(server="registry", method="GET", path="/blobs/", status=500, times=None)
    )
    readers = [asyncio.create_task(proxy.client.ask("GET", PATH)) for _ in range(5)]
    await gate.reached.wait()
    while not any(request.method == "HEAD" for request in seeded.requests):
        await proxy.client.ask("GET", "/livez")
    for _ in range(5):  # they have been let in by now, and join
        await proxy.client.ask("HEAD", PATH)
    gate.release()
    assert {(await reader).status for reader in readers} == {502}
    together = failing.hits
    assert (await proxy.client.ask("GET", PATH)).status == 502
    assert failing.hits == 2 * together


async def _get(client: Client, blob: bytes) -> None:
    got = await client.ask("GET", f"/v2/app/blobs/{Digest.of(blob)}")
    assert got.body == blob
