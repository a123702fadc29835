"""A manifest is sent when all that it names is upstream; what upstream has lost is sent again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from proxy.standin.settings import Denial
from proxy.upstream import Tuning
from tests.api.pushing import CACHE, COMMIT, holds, put_cache, puts_of_manifests
from tests.caches import OLD, Cache
from tests.running import RunningProxy, running, settings_for


async def test_an_index_waits_for_children_that_are_on_their_way(
    standin: StandIn, tmp_path: Path
) -> None:
    # So that its PUT waits for its children, and not for its turn by ECR's rates.
    timing = Timing(tuning=Tuning(rates={}))
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(settings, timing=timing) as proxy:
        await _push_index_and_child(proxy, standin)


async def _push_index_and_child(proxy: RunningProxy, standin: StandIn) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    child = CACHE.image_manifest
    digest = Digest.of(child)
    index = (
        b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s",'
        b'"size":%d}]}' % (OCI_INDEX.encode(), OCI_MANIFEST.encode(), digest.encode(), len(child))
    )
    held = standin.faults.add(
        Fault(server="registry", method="PUT", path=f"/manifests/{digest}", hold=True)
    )
    first = asyncio.create_task(proxy.client.push_manifest("app", digest, child, OCI_MANIFEST))
    await held.reached.wait()
    second = asyncio.create_task(proxy.client.push_manifest("app", "multi", index, OCI_INDEX))
    # The index is in, and waits: what comes after it is answered, again and again.
    for _ in range(100):
        assert (await proxy.client.ask("GET", "/v2/")).status == 200
    assert puts_of_manifests(standin) == 1
    held.release()
    assert (await first).status == 201
    assert (await second).status == 201


async def test_what_upstream_refuses_for_good_fails_the_manifest_in_its_words(
    tmp_path: Path,
) -> None:
    denial = Denial("ecr:CompleteLayerUpload")
    settings = StandInSettings(repositories=("app",), denials=(denial,))
    async with (
        StandIn(settings) as standin,
        running(settings_for(registry_of(standin), cache_dir=tmp_path)) as proxy,
    ):
        await CACHE.push_blobs(proxy.client, "app")
        refused = await put_cache(proxy)
        assert refused.status == 403
        assert b"not authorized to perform: ecr:CompleteLayerUpload" in refused.body
        assert puts_of_manifests(standin) == 0
        # Nothing is owed any more, and nobody is told that it is there.
        digest = Digest.of(CACHE.config)
        assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{digest}")).status == 404


async def test_a_manifest_does_not_wait_for_a_blob_that_is_deleted_meanwhile(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    await proxy.until_upstream(*map(Digest.of, CACHE.blobs))
    other = Cache.of(b"deleted too soon")
    held = standin.faults.add(Fault(server="registry", method="POST", hold=True, times=None))
    await other.push_blobs(proxy.client, "app")
    await held.reached.wait()
    put = asyncio.create_task(put_cache(proxy, other))
    assert (await proxy.client.ask("GET", "/v2/")).status == 200
    assert not put.done()
    for blob in other.blobs:
        await proxy.client.ask("DELETE", f"/v2/app/blobs/{Digest.of(blob)}")
    refused = await put
    assert (refused.status, b"push it again" in refused.body) == (404, True)
    held.release()


async def test_a_layer_that_upstream_lost_is_sent_again_from_disk(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    assert (await put_cache(proxy)).status == 201
    for blob in CACHE.blobs:  # as the client's questions are answered before its next push
        head = await proxy.client.ask("HEAD", f"/v2/app/blobs/{Digest.of(blob)}")
        assert head.status == 200
    repository = standin.state.repository("app")
    del repository.blobs[Digest.of(CACHE.layers[0])]
    again = await proxy.client.push_manifest("app", "again", CACHE.index, OCI_INDEX)
    assert again.status == 201, again.body
    assert await holds(standin, CACHE.layers[0])
    assert Kind.REPAIRED in proxy.kinds()


async def test_what_cannot_be_sent_again_is_asked_for_anew(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    assert (await put_cache(proxy)).status == 201
    lost = Digest.of(CACHE.layers[0])
    del standin.state.repository("app").blobs[lost]
    await proxy.client.ask("HEAD", f"/v2/app/blobs/{lost}")  # still believed
    blob_file = next((proxy.settings.cache_dir / "blobs").rglob(lost.hex))
    blob_file.unlink()
    refused = await put_cache(proxy, tag="again")
    assert refused.status == 404, refused.body
    assert lost.encode() in refused.body
    assert b"write-through" in refused.body
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{lost}")).status == 404
    await CACHE.push_blobs(proxy.client, "app")
    assert (await put_cache(proxy, tag="again")).status == 201


async def test_a_manifest_gets_nobody_a_blob_that_the_repository_never_held(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """What is sent again was granted here: else a digest would be enough to have any blob."""
    await CACHE.push_blobs(proxy.client, "other")
    await proxy.until_upstream(*map(Digest.of, CACHE.blobs))
    refused = await put_cache(proxy)
    assert refused.status == 404
    for blob in CACHE.blobs:
        assert not await holds(standin, blob, "app")


async def test_an_immutable_tag_takes_the_same_again_and_nothing_else(tmp_path: Path) -> None:
    settings = StandInSettings(repositories=("app",), immutable_tags=True)
    async with (
        StandIn(settings) as standin,
        running(settings_for(registry_of(standin), cache_dir=tmp_path)) as proxy,
    ):
        await CACHE.push_blobs(proxy.client, "app")
        for _ in range(2):
            answer = await proxy.client.push_manifest("app", "cache", CACHE.index, OCI_INDEX)
            assert (answer.status, answer.digest) == (201, Digest.of(CACHE.index))
        other = Cache.of(b"something else")
        await other.push_blobs(proxy.client, "app")
        refused = await put_cache(proxy, other)
        assert refused.status == 400
        assert b"TAG_INVALID" in refused.body
        assert b"IMMUTABLE_WITH_EXCLUSION" in refused.body
        read = await proxy.client.ask("GET", "/v2/app/manifests/cache", headers=OLD)
        assert read.body == CACHE.index


async def test_what_failed_for_good_and_is_there_by_now_fails_no_manifest(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    await proxy.until_upstream(*map(Digest.of, CACHE.blobs))
    lost = CACHE.layers[0]
    del standin.state.repository("app").blobs[Digest.of(lost)]
    refusal = standin.faults.add(replace(COMMIT, status=403))
    await proxy.client.push_blob("app", lost)
    assert (await put_cache(proxy)).status == 403
    standin.faults.remove(refusal)
    standin.state.put_blob("app", lost)  # by another client, straight
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{Digest.of(lost)}")).status == 200
    assert (await put_cache(proxy)).status == 201


async def test_what_upstream_does_not_have_is_told_to_the_next_question(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """Though it has said a moment ago that it is there."""
    for blob in CACHE.blobs:
        standin.state.put_blob("app", blob)
        path = f"/v2/app/blobs/{Digest.of(blob)}"
        assert (await proxy.client.ask("HEAD", path)).status == 200
    lost = Digest.of(CACHE.layers[0])
    del standin.state.repository("app").blobs[lost]
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{lost}")).status == 200
    assert (await put_cache(proxy)).status == 404
    assert (await proxy.client.ask("HEAD", f"/v2/app/blobs/{lost}")).status == 404


async def test_no_part_of_a_manifest_is_sent_again_if_all_of_it_may_not_be(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    await proxy.client.push_blob("other", b"private")
    await proxy.until_upstream(*map(Digest.of, CACHE.blobs), Digest.of(b"private"))
    del standin.state.repository("app").blobs[Digest.of(CACHE.layers[0])]
    mixed = Cache((CACHE.layers[0], b"private"), CACHE.config)
    assert (await put_cache(proxy, mixed)).status == 404
    assert not await holds(standin, b"private", "app")
