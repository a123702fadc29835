"""Blobs from another repository: mounted upstream, or sent from disk for who may read them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.api.pushing import COMMIT, MIB, holds
from tests.caches import Cache
from tests.running import RunningProxy


async def test_a_mount_that_ecr_declines_is_made_from_disk(
    proxy: RunningProxy, standin: StandIn
) -> None:
    content = b"mountable"
    digest = await proxy.client.push_blob("other", content)
    await proxy.until_upstream(digest)
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}&from=other")
    assert (answer.status, answer.digest) == (201, digest)
    await proxy.until(Kind.PUSHED_BLOB, 2)
    assert await holds(standin, content, "app")


async def test_a_mount_from_where_the_blob_is_still_owed_is_made_from_disk(
    proxy: RunningProxy, standin: StandIn
) -> None:
    held = standin.faults.add(replace(COMMIT, hold=True))
    content = b"mountable"
    digest = await proxy.client.push_blob("other", content)
    query = f"?mount={digest}&from=team/app"
    assert (await proxy.client.ask("POST", f"/v2/app/blobs/uploads/{query}")).status == 202
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}&from=other")
    assert (answer.status, answer.digest) == (201, digest)
    held.release()
    await proxy.until(Kind.PUSHED_BLOB, 2)
    assert await holds(standin, content, "app")


@pytest.mark.parametrize(("size", "status"), [(15 * MIB, 201), (17 * MIB, 202)])
async def test_what_is_mounted_from_disk_is_owed_as_far_as_clients_may_run_ahead(
    proxy: RunningProxy, standin: StandIn, size: int, status: int
) -> None:
    """Over a slow line its manifest would be answered too late; and its client pushes slowly."""
    content = os.urandom(size)
    cache = Cache.of(content)
    for blob in cache.blobs:
        standin.state.put_blob("other", blob)
    standin.state.put_manifest("other", cache.image_manifest, OCI_MANIFEST)
    digest = Digest.of(content)
    assert (await proxy.client.ask("GET", f"/v2/other/blobs/{digest}")).body == content
    await proxy.until(Kind.STORED)
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}&from=other")
    assert answer.status == status


async def test_nothing_is_mounted_from_where_the_blob_is_not_to_be_read(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """Whoever knows the digest of a private blob must not get it by naming another repository."""
    digest = await proxy.client.push_blob("other", b"private")
    await proxy.until_upstream(digest)
    query = f"?mount={digest}&from=team/app"
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/{query}")
    assert answer.status == 202
    assert not await holds(standin, b"private", "app")
