"""What the proxy remembers is never taken for what upstream has, nor trusted to be readable."""

from __future__ import annotations

import json

from proxy.cache import BlobStore, RecordStore
from proxy.events import Events
from proxy.oci import EMPTY_DESCRIPTOR, OCI_INDEX, Digest
from proxy.standin import StandIn
from tests.caches import Cache
from tests.running import RunningProxy


async def test_the_empty_layer_is_pushed_again_when_ecr_has_lost_it(
    proxy: RunningProxy, standin: StandIn
) -> None:
    for cache in (Cache.of(), Cache((), b'{"layers":[],"records":[{}]}')):
        await cache.push_blobs(proxy.client, "app")
        pushed = await proxy.client.push_manifest("app", "cache", cache.index, OCI_INDEX)
        assert pushed.status == 201, pushed.body
        standin.state.delete_blob("app", EMPTY_DESCRIPTOR.digest)


async def test_an_alias_that_another_version_wrote_is_an_unknown_digest(
    proxy: RunningProxy, standin: StandIn
) -> None:
    digest = Digest.of(b"what a client knows")
    await proxy.stop()
    store = await BlobStore.open(
        proxy.settings.cache_dir, budget=proxy.settings.cache_size, events=Events()
    )
    records = await RecordStore.open(store)
    alias = json.dumps({"stored": digest, "form": "a form of the future"}).encode()
    await records.put("alias", standin.host, "app", digest, alias)
    await store.close()
    await proxy.start()
    for method in ("GET", "HEAD", "DELETE"):
        got = await proxy.client.ask(method, f"/v2/app/manifests/{digest}")
        assert got.status == 404, (method, got)


async def test_an_alias_that_cannot_be_read_is_no_unknown_digest(proxy: RunningProxy) -> None:
    cache = Cache.of(b"a layer")
    await cache.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "cache", cache.index, OCI_INDEX)
    path = f"/v2/app/manifests/{pushed.digest}"
    await proxy.restart()
    (file,) = (f for f in (proxy.settings.cache_dir / "records/alias").rglob("*") if f.is_file())
    aside = file.rename(file.with_name("aside"))
    file.mkdir()
    for method in ("HEAD", "GET", "DELETE"):
        got = await proxy.client.ask(method, path)
        assert got.status == 503, method
        assert "cannot be read" in got.headers["Ecr-Cache-Proxy-Error"]
    file.rmdir()
    aside.rename(file)
    assert (await proxy.client.ask("GET", path)).body == cache.index
