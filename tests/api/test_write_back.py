"""A blob's 201 means that it is on this proxy's disk, a manifest's that all of it is upstream."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from proxy.upstream import Tuning
from tests.api.pushing import CACHE, COMMIT, MIB, holds, put_cache, puts_of_manifests
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for, straight_to, with_registry


async def test_a_blob_is_taken_before_upstream_has_it_and_its_manifest_waits(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    await CACHE.push_blobs(proxy.client, "app")
    for blob in CACHE.blobs:
        assert not await holds(standin, blob)
    put = asyncio.create_task(put_cache(proxy))
    await held.reached.wait()
    await asyncio.wait([put], timeout=0)
    assert not put.done()
    assert puts_of_manifests(standin) == 0
    held.release()
    assert (await put).status == 201
    for blob in CACHE.blobs:
        assert await holds(standin, blob)
    assert puts_of_manifests(standin) == 1


@pytest.mark.parametrize("count", [4, 5])
async def test_blobs_that_are_too_small_for_a_part_do_not_wait_for_one_another(
    proxy: RunningProxy, count: int
) -> None:
    """Together they are more than may be owed, and none is a part that would be sent before."""
    blobs = [os.urandom(5 * MIB - 1) for _ in range(count)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(proxy.client.push_blob("app", blob) for blob in blobs))
        await proxy.until_upstream(*map(Digest.of, blobs))


async def test_a_manifest_does_not_wait_for_a_blob_that_sleeps_over_past_trouble(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(settings, timing=Timing(tuning=Tuning(first_pause=60.0))) as proxy:
        standin.faults.add(replace(COMMIT, status=503, times=1))
        await CACHE.push_blobs(proxy.client, "app")
        await proxy.until(Kind.TROUBLE)
        async with asyncio.timeout(10):
            assert (await put_cache(proxy)).status == 201


async def test_a_push_that_upstream_refuses_at_once_is_refused_at_once(
    proxy: RunningProxy,
) -> None:
    answer = await proxy.client.ask("POST", "/v2/nowhere/blobs/uploads/")
    assert (answer.status, b"NAME_UNKNOWN" in answer.body) == (404, True)


async def test_upstream_is_asked_once_whether_a_repository_takes_pushes(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await proxy.client.push_blob("app", b"first")
    await proxy.until_upstream(Digest.of(b"first"))
    held = standin.faults.add(Fault(server="registry", method="POST", hold=True, times=None))
    await proxy.client.push_blob("app", b"second")
    held.release()
    await proxy.until_upstream(Digest.of(b"second"))


async def test_an_owed_blob_is_answered_from_disk_without_a_question(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    content = os.urandom(MIB)
    digest = await proxy.client.push_blob("app", content)
    await held.reached.wait()
    before = len(standin.requests)
    head = await proxy.client.ask("HEAD", f"/v2/app/blobs/{digest}")
    assert (head.status, head.headers["Content-Length"]) == (200, str(MIB))
    assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == content
    part = await proxy.client.ask(
        "GET", f"/v2/app/blobs/{digest}", headers={"Range": "bytes=100-199"}
    )
    assert (part.status, part.body) == (206, content[100:200])
    assert len(standin.requests) == before
    # It is owed to one repository, and says nothing of another.
    assert (await proxy.client.ask("GET", f"/v2/other/blobs/{digest}")).status == 404
    held.release()


def deletions_of_blobs(standin: StandIn) -> int:
    return sum(each.method == "DELETE" and "/blobs/sha" in each.path for each in standin.requests)


async def test_a_blob_that_is_just_being_taken_upstream_is_deleted_there_too(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    deletable = Fault(server="registry", method="DELETE", path="/blobs/sha", status=202)
    standin.faults.add(deletable)
    digest = await proxy.client.push_blob("app", b"content")
    await held.reached.wait()
    deletion = asyncio.create_task(proxy.client.ask("DELETE", f"/v2/app/blobs/{digest}"))
    # The deletion is in: a question that comes after it is answered.
    assert (await proxy.client.ask("GET", "/v2/")).status == 200
    assert not deletion.done()
    held.release()
    assert (await deletion).status == 202
    assert deletions_of_blobs(standin) == 1


async def test_no_blob_that_upstream_has_and_does_not_delete_is_said_to_be_deleted(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    digest = await proxy.client.push_blob("app", b"content")
    await held.reached.wait()
    deletion = asyncio.create_task(proxy.client.ask("DELETE", f"/v2/app/blobs/{digest}"))
    assert (await proxy.client.ask("GET", "/v2/")).status == 200
    held.release()
    answer = await deletion
    assert (answer.status, b"UNSUPPORTED" in answer.body) == (405, True)
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{digest}")).status == 200


async def test_an_owed_blob_that_is_deleted_before_it_was_sent_never_is(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await proxy.client.push_blob("app", b"first")
    await proxy.until_upstream(Digest.of(b"first"))
    held = standin.faults.add(Fault(server="registry", method="POST", hold=True, times=None))
    digest = await proxy.client.push_blob("app", b"second")
    await held.reached.wait()
    assert (await proxy.client.ask("DELETE", f"/v2/app/blobs/{digest}")).status == 202
    held.release()
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{digest}")).status == 404
    assert deletions_of_blobs(standin) == 0


async def test_a_note_whose_blob_never_came_to_be_is_owed_no_more(
    standin: StandIn, tmp_path: Path
) -> None:
    """As a crash leaves it before the reply: all others would be told to wait for its bytes."""
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), shutdown_timeout=0.0)
    held = standin.faults.add(replace(COMMIT, hold=True, times=None))
    async with running(settings) as proxy:
        digest = await proxy.client.push_blob("app", os.urandom(MIB))
        await held.reached.wait()
        await proxy.stop()
        next((tmp_path / "blobs").rglob(digest.hex)).unlink()
        await proxy.start()
        metrics = (await proxy.client.ask("GET", "/metrics")).body.decode()
        assert re.findall(r"owed_bytes{.*} (.*)", metrics) == ["0.0"]
        standin.faults.remove(held)
    assert not [path for path in (tmp_path / "records" / "debt").rglob("*") if path.is_file()]


async def test_a_pushed_blob_is_pulled_before_any_manifest_names_it(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """ECR refuses such a download."""
    digest = await proxy.client.push_blob("app", b"not in any image")
    await proxy.until_upstream(digest)
    async with straight_to(standin) as client:
        assert (await client.ask("GET", f"/v2/app/blobs/{digest}")).status == 404
    assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == b"not in any image"


async def test_what_is_owed_when_the_process_ends_is_owed_after_the_next_start(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), shutdown_timeout=0.0)
    held = standin.faults.add(replace(COMMIT, hold=True))
    async with running(settings) as proxy:
        await CACHE.push_blobs(proxy.client, "app")
        await held.reached.wait()
        await proxy.restart()
        owed = await proxy.client.ask("HEAD", f"/v2/app/blobs/{Digest.of(CACHE.config)}")
        assert owed.status == 200
        standin.faults.remove(held)
        assert (await put_cache(proxy)).status == 201
        for blob in CACHE.blobs:
            assert await holds(standin, blob)
        await proxy.until_upstream(*map(Digest.of, CACHE.blobs))
    assert not [path for path in (tmp_path / "records" / "debt").rglob("*") if path.is_file()]


async def test_a_stop_waits_until_nothing_is_owed(standin: StandIn, tmp_path: Path) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    async with running(settings_for(registry_of(standin), cache_dir=tmp_path)) as proxy:
        digest = await proxy.client.push_blob("app", b"owed")
        await held.reached.wait()
        stop = asyncio.create_task(proxy.stop())
        held.release()
        await stop
        assert Kind.PUSHED_BLOB in proxy.kinds()
        assert await holds(standin, b"owed")
        assert digest
        await proxy.start()


async def test_with_write_through_a_blob_is_upstream_when_it_is_taken(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    settings = with_registry(settings, push_mode="write-through")
    held = standin.faults.add(replace(COMMIT, hold=True, times=1))
    async with running(settings) as proxy:
        push = asyncio.create_task(proxy.client.push_blob("app", b"blob"))
        await held.reached.wait()
        assert not push.done()
        held.release()
        digest = await push
        assert await holds(standin, b"blob")
        assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == b"blob"


async def test_a_blob_that_finds_no_room_on_disk_is_upstream_when_it_is_taken(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=2 * MIB)
    async with running(settings) as proxy:
        content = os.urandom(7 * MIB)
        await proxy.client.push_blob("app", content)
        assert await holds(standin, content)


async def test_a_blob_that_two_push_at_once_is_sent_and_owed_once(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    await proxy.client.push_blob("app", b"the same")
    await held.reached.wait()
    await proxy.client.push_blob("app", b"the same")
    held.release()
    await proxy.until_upstream(Digest.of(b"the same"))
    assert held.hits == 1


async def test_a_missing_repository_is_told_with_its_remedy(proxy: RunningProxy) -> None:
    answer = await proxy.client.ask("POST", "/v2/nowhere/blobs/uploads/")
    assert answer.status == 404
    assert b"aws ecr create-repository --repository-name nowhere" in answer.body
    assert b"--create-repositories" in answer.body


@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1, 12 * MIB, 41 * MIB + 3])
async def test_blobs_of_every_size_reach_upstream_whole(
    proxy: RunningProxy, standin: StandIn, size: int
) -> None:
    content = os.urandom(size)
    digest = await proxy.client.push_blob("app", content)
    await proxy.until_upstream(digest)
    assert standin.state.files.path_of(digest).read_bytes() == content


async def test_a_blob_without_bytes_is_refused_in_ecrs_words_at_once(
    proxy: RunningProxy,
) -> None:
    location = (await proxy.client.ask("POST", "/v2/app/blobs/uploads/")).headers["Location"]
    answer = await proxy.client.ask("PUT", f"{location}?digest={Digest.of(b'')}")
    assert (answer.status, b"does not have any parts" in answer.body) == (400, True)


async def test_an_owed_blob_makes_room_for_nothing(standin: StandIn, tmp_path: Path) -> None:
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=5 * MIB)
    held = standin.faults.add(replace(COMMIT, hold=True))
    contents = [os.urandom(MIB) for _ in range(6)]
    async with running(settings) as proxy:
        digest = await proxy.client.push_blob("app", contents[0])
        await held.reached.wait()
        for content in contents[1:]:
            pulled = standin.state.put_blob("other", content)
            standin.state.put_manifest("other", Cache.of(content).image_manifest, OCI_MANIFEST)
            got = await proxy.client.ask("GET", f"/v2/other/blobs/{pulled}")
            assert got.body == content
        assert Kind.EVICTED in proxy.kinds()
        assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == contents[0]
        held.release()
        await proxy.until_upstream(digest)
        assert await holds(standin, contents[0])
        # Nor when upstream has it, until a manifest names it: it may have to be sent again.
        for content in contents[1:]:
            path = f"/v2/other/blobs/{Digest.of(content)}"
            assert (await proxy.client.ask("GET", path)).body == content
        assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == contents[0]
