"""What is deleted is gone for whoever asks afterwards, whoever deleted it and however."""

from __future__ import annotations

import asyncio

import pytest

from proxy.cache import NoSpace, RecordStore
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from tests.caches import Cache
from tests.running import RunningProxy, straight_to

CACHE = Cache.of(b"a layer")
DIGEST = Digest.of(CACHE.image_manifest)
PATH = f"/v2/app/manifests/{DIGEST}"


@pytest.fixture
async def known(standin: StandIn, proxy: RunningProxy) -> RunningProxy:
    """A proxy that has the manifest on disk, and nothing of it fresh in mind."""
    await CACHE.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "t", CACHE.image_manifest, OCI_MANIFEST)
    assert pushed.status == 201
    await proxy.restart()
    return proxy


async def _delete_upstream(standin: StandIn) -> None:
    async with straight_to(standin) as client:
        assert (await client.ask("DELETE", PATH)).status == 202


async def test_a_head_by_digest_does_not_promise_what_upstream_has_no_more(
    standin: StandIn, known: RunningProxy
) -> None:
    """A client leaves out a push because of it, and the index above it would be refused."""
    assert (await known.client.ask("HEAD", PATH)).status == 200
    await known.restart()
    await _delete_upstream(standin)
    assert (await known.client.ask("HEAD", PATH)).status == 404
    assert (await known.client.ask("GET", PATH)).status == 404


async def test_trouble_upstream_is_no_proof_that_a_manifest_is_gone(
    standin: StandIn, known: RunningProxy
) -> None:
    standin.faults.add(Fault(server="registry", method="HEAD", status=503, times=None))
    assert (await known.client.ask("HEAD", PATH)).status == 200


async def test_a_manifest_just_pushed_is_there_though_ecr_denies_it_for_a_moment(
    standin: StandIn, proxy: RunningProxy
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    standin.state.lag_reads = 5
    pushed = await proxy.client.push_manifest("app", "t", CACHE.index, OCI_INDEX)
    head = await proxy.client.ask("HEAD", f"/v2/app/manifests/{pushed.digest}")
    assert (head.status, head.digest) == (200, Digest.of(CACHE.index))


async def test_what_cannot_be_deleted_as_it_is_gone_is_forgotten(
    standin: StandIn, known: RunningProxy
) -> None:
    await _delete_upstream(standin)
    assert (await known.client.ask("DELETE", PATH)).status == 404
    assert (await known.client.ask("GET", PATH)).status == 404


async def test_no_reader_joins_a_question_from_before_a_deletion_by_digest(
    standin: StandIn, known: RunningProxy
) -> None:
    gate = standin.faults.add(Fault(server="registry", method="HEAD", path="/t$", hold=True))
    early = asyncio.create_task(known.client.ask("HEAD", "/v2/app/manifests/t"))
    await gate.reached.wait()
    assert (await known.client.ask("DELETE", PATH)).status == 202
    # The gate is still shut: an answer can only come from a question of its own.
    async with asyncio.timeout(10):
        assert (await known.client.ask("HEAD", "/v2/app/manifests/t")).status == 404
    gate.release()
    await early


async def test_a_digest_that_cannot_be_kept_is_not_answered_with(
    proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(store: RecordStore, *record: object) -> None:
        if record[0] == "alias":
            raise NoSpace("the budget has no room")

    await CACHE.push_blobs(proxy.client, "app")
    monkeypatch.setattr(RecordStore, "put", full)
    pushed = await proxy.client.push_manifest("app", "t", CACHE.index, OCI_INDEX)
    assert pushed.status == 503
    assert b"the budget has no room" in pushed.body
