"""A small cache, how it is pushed, and what upstream has of it."""

from __future__ import annotations

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from tests.caches import Cache
from tests.running import Answer, RunningProxy, straight_to

MIB = 1024 * 1024
CACHE = Cache.of(b"first layer", b"second layer")
COMMIT = Fault(server="registry", method="PUT", path="/blobs/uploads/", times=None)


async def put_cache(proxy: RunningProxy, cache: Cache = CACHE, tag: str = "cache") -> Answer:
    return await proxy.client.push_manifest("app", tag, cache.image_manifest, OCI_MANIFEST)


def puts_of_manifests(standin: StandIn) -> int:
    return sum(each.method == "PUT" and "/manifests/" in each.path for each in standin.requests)


async def holds(standin: StandIn, content: bytes, repository: str = "app") -> bool:
    async with straight_to(standin) as client:
        path = f"/v2/{repository}/blobs/{Digest.of(content)}"
        return (await client.ask("HEAD", path)).status == 200
