"""Who shares an answer with whom: readers of one tag of one repository, never across a write."""

from __future__ import annotations

import asyncio

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from tests.caches import ALL_TYPES, Cache
from tests.running import RunningProxy

FIRST = Cache.of(b"first")
SECOND = Cache.of(b"second")
TAG = "/v2/app/manifests/cache"


def _put(standin: StandIn, repository: str, cache: Cache) -> None:
    for blob in cache.blobs:
        standin.state.put_blob(repository, blob)
    standin.state.put_manifest(repository, cache.image_manifest, OCI_MANIFEST, tag="cache")


def _asked(standin: StandIn) -> int:
    return sum(r.method == "HEAD" and r.path == TAG for r in standin.requests)


async def test_readers_of_a_tag_at_the_same_time_share_one_question(
    proxy: RunningProxy, standin: StandIn
) -> None:
    _put(standin, "app", FIRST)
    held = standin.faults.add(Fault(server="registry", method="HEAD", path=TAG, hold=True))
    readers = [asyncio.create_task(proxy.client.ask("HEAD", TAG)) for _ in range(8)]
    await held.reached.wait()
    # All of them have come by the time that a later request of another kind is answered.
    for _ in range(3):
        await asyncio.gather(*(proxy.client.ask("GET", "/livez") for _ in range(8)))
    held.release()
    answers = await asyncio.gather(*readers)
    assert {answer.digest for answer in answers} == {Digest.of(FIRST.image_manifest)}
    assert _asked(standin) == 1


async def test_the_same_tag_of_two_repositories_is_two_questions(
    proxy: RunningProxy, standin: StandIn
) -> None:
    _put(standin, "app", FIRST)
    _put(standin, "other", SECOND)
    held = standin.faults.add(Fault(server="registry", method="HEAD", path=TAG, hold=True))
    reader = asyncio.create_task(proxy.client.ask("GET", TAG, headers=ALL_TYPES))
    await held.reached.wait()
    other = await proxy.client.ask("GET", "/v2/other/manifests/cache", headers=ALL_TYPES)
    assert other.body == SECOND.image_manifest
    held.release()
    assert (await reader).body == FIRST.image_manifest


async def test_a_reader_after_a_push_joins_no_question_from_before_it(
    proxy: RunningProxy, standin: StandIn
) -> None:
    _put(standin, "app", FIRST)
    await SECOND.push_blobs(proxy.client, "app")
    held = standin.faults.add(Fault(server="registry", method="HEAD", path=TAG, hold=True))
    early = asyncio.create_task(proxy.client.ask("GET", TAG, headers=ALL_TYPES))
    await held.reached.wait()
    pushed = await proxy.client.push_manifest("app", "cache", SECOND.image_manifest, OCI_MANIFEST)
    assert pushed.status == 201
    late = await proxy.client.ask("GET", TAG, headers=ALL_TYPES)
    assert late.body == SECOND.image_manifest
    assert _asked(standin) == 2
    held.release()
    await early


async def test_a_reader_that_leaves_takes_no_answer_from_the_others(
    proxy: RunningProxy, standin: StandIn
) -> None:
    _put(standin, "app", FIRST)
    held = standin.faults.add(Fault(server="registry", method="HEAD", path=TAG, hold=True))
    leaving = asyncio.create_task(proxy.client.ask("HEAD", TAG))
    await held.reached.wait()
    staying = asyncio.create_task(proxy.client.ask("HEAD", TAG))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    held.release()
    assert (await staying).status == 200
