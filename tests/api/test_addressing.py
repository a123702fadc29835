"""The four ways to name a registry, and two proxies in a chain."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.config import RegistrySettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn, StandInSettings
from tests.caches import ALL_TYPES, NEW, OLD, Cache, only
from tests.running import RunningProxy, running, settings_for

CACHE = Cache.of(b"layer one", b"layer two")
OTHER = "210987654321"


@pytest.fixture
async def second() -> AsyncIterator[StandIn]:
    """Another account's registry."""
    settings = StandInSettings(account=OTHER, repositories=("app", "mine"), rate_limits=False)
    async with StandIn(settings) as standin:
        yield standin


@pytest.fixture
async def both(standin: StandIn, second: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    """A proxy in front of two accounts; the stand-in of the first is the default."""
    settings = settings_for(registry_of(standin), registry_of(second), cache_dir=tmp_path / "both")
    async with running(settings) as proxy:
        yield proxy


def _ways(standin: StandIn) -> list[tuple[str, str]]:
    """Prefix and query of the default, prefix and `?ns=` forms."""
    return [("", ""), (f"{standin.host}/", ""), ("", f"?ns={standin.host}")]


async def _push(proxy: RunningProxy, prefix: str, query: str, tag: str) -> None:
    for blob in CACHE.blobs:
        started = await proxy.client.ask("POST", f"/v2/{prefix}app/blobs/uploads/{query}")
        location = started.headers["Location"]
        joint = "&" if "?" in location else "?"
        done = await proxy.client.ask(
            "PUT", f"{location}{joint}digest={Digest.of(blob)}", body=blob
        )
        assert done.status == 201, done
    headers = {"Content-Type": OCI_INDEX}
    path = f"/v2/{prefix}app/manifests/{tag}{query}"
    pushed = await proxy.client.ask("PUT", path, headers=headers, body=CACHE.index)
    assert (pushed.status, pushed.digest) == (201, Digest.of(CACHE.index))


@pytest.mark.parametrize("way", [0, 1, 2])
async def test_every_way_to_name_a_registry_does_the_same(
    both: RunningProxy, standin: StandIn, way: int
) -> None:
    await _push(both, *_ways(standin)[way], "cache")
    for prefix, query in _ways(standin):
        got = await both.client.ask(
            "GET", f"/v2/{prefix}app/manifests/cache{query}", headers=OLD | ALL_TYPES
        )
        assert got.body == CACHE.index
        for blob in CACHE.blobs:
            path = f"/v2/{prefix}app/blobs/{Digest.of(blob)}{query}"
            assert (await both.client.ask("GET", path)).body == blob
        tags = await both.client.ask("GET", f"/v2/{prefix}app/tags/list{query}")
        assert b'"cache"' in tags.body


async def test_registries_are_kept_apart(both: RunningProxy, second: StandIn) -> None:
    await _push(both, "", "", "cache")
    digest, blob = Digest.of(CACHE.index), Digest.of(CACHE.config)
    for path in ("manifests/cache", f"manifests/{digest}", f"blobs/{blob}"):
        assert (await both.client.ask("GET", f"/v2/app/{path}")).status == 200
        assert (await both.client.ask("GET", f"/v2/{second.host}/app/{path}")).status == 404
    mine = await both.client.ask("GET", "/v2/mine/tags/list")
    assert mine.status == 404
    assert (await both.client.ask("GET", f"/v2/mine/tags/list?ns={second.host}")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/999999999999.dkr.ecr.us-east-1.amazonaws.com/app/manifests/cache",
        "/v2/app/manifests/cache?ns=docker.io",
        "/v2/_catalog?ns=docker.io",
    ],
)
async def test_a_registry_that_is_not_configured_is_a_404_that_names_those_that_are(
    both: RunningProxy, standin: StandIn, second: StandIn, path: str
) -> None:
    got = await both.client.ask("GET", path)
    assert got.status == 404
    assert b"NAME_UNKNOWN" in got.body
    assert standin.host.encode() in got.body
    assert second.host.encode() in got.body


async def test_a_mount_strips_the_registry_and_stays_within_it(
    both: RunningProxy, standin: StandIn, second: StandIn
) -> None:
    blob = Digest.of(b"layer")
    for source in ("other", f"{standin.host}/other", f"{second.host}/app"):
        got = await both.client.ask("POST", f"/v2/app/blobs/uploads/?mount={blob}&from={source}")
        assert got.status == 202
    mounts = [r.path for r in standin.requests if "mount=" in r.path]
    assert len(mounts) == 2
    assert all(path.endswith("from=other") for path in mounts)


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-a", "a..b", "%2e%2e/%2e%2e/etc", "a%00b"])
async def test_a_name_outside_the_grammar_is_refused(proxy: RunningProxy, name: str) -> None:
    got = await proxy.client.ask("GET", f"/v2/{name}/tags/list")
    assert (got.status, b"NAME_INVALID" in got.body) == (400, True), got


async def test_pages_of_tags_lead_back_to_the_proxy(both: RunningProxy, standin: StandIn) -> None:
    for n in range(5):
        await _push(both, "", "", f"t{n}")
    for prefix, query in _ways(standin):
        seen: list[str] = []
        path = f"/v2/{prefix}app/tags/list{query}{'&' if query else '?'}n=2"
        while path:
            got = await both.client.ask("GET", path)
            assert got.media_type == "application/json"
            seen += json.loads(got.body)["tags"]
            link = got.headers.get("Link", "")
            path = link.partition("<")[2].partition(">")[0]
            assert urlsplit(path).netloc == ""
        assert sorted(seen) == [f"t{n}" for n in range(5)]


@pytest.fixture
async def sidecar(proxy: RunningProxy, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    """A proxy whose only registry is another proxy, as on a runner behind a LAN cache."""
    parent = RegistrySettings(name=proxy.address, url=f"http://{proxy.address}")
    async with running(settings_for(parent, cache_dir=tmp_path / "sidecar")) as sidecar:
        yield sidecar


async def test_a_chain_of_proxies_shows_every_client_what_one_shows(
    sidecar: RunningProxy, proxy: RunningProxy
) -> None:
    await _push(sidecar, "", "", "cache")
    for headers in (OLD | ALL_TYPES, NEW | ALL_TYPES, NEW | only(OCI_INDEX), {}):
        path = "/v2/app/manifests/cache"
        near, far = [await p.client.ask("GET", path, headers=headers) for p in (sidecar, proxy)]
        assert (near.body, near.media_type, near.digest) == (far.body, far.media_type, far.digest)
    assert Kind.REWRITTEN in proxy.kinds()
    assert Kind.REWRITTEN not in sidecar.kinds()  # only the last one rewrites
    for digest in (Digest.of(CACHE.index), Digest.of(CACHE.image_manifest)):
        got = await sidecar.client.ask("GET", f"/v2/app/manifests/{digest}")
        assert got.status == 200


async def test_a_chain_holds_with_both_caches_emptied(
    sidecar: RunningProxy, proxy: RunningProxy
) -> None:
    await _push(sidecar, "", "", "cache")
    await sidecar.restart(empty_cache=True)
    head = await sidecar.client.ask("HEAD", "/v2/app/manifests/cache", headers=OLD | ALL_TYPES)
    assert head.digest == Digest.of(CACHE.index)
    got = await sidecar.client.ask("GET", f"/v2/app/manifests/{head.digest}")
    assert got.body == CACHE.index


async def test_a_registry_that_only_the_parent_knows_is_reached_through_it(
    sidecar: RunningProxy, standin: StandIn
) -> None:
    await _push(sidecar, "", "", "cache")
    for path in (f"/v2/{standin.host}/app/manifests/cache",
                 f"/v2/app/manifests/cache?ns={standin.host}"):  # fmt: skip
        got = await sidecar.client.ask("GET", path, headers=NEW | ALL_TYPES)
        assert (got.status, got.media_type, got.body) == (200, OCI_MANIFEST, CACHE.image_manifest)


async def test_always_rewriting_leaves_it_to_the_last_proxy(
    proxy: RunningProxy, tmp_path: Path
) -> None:
    parent = RegistrySettings(name=proxy.address, url=f"http://{proxy.address}", rewrite="always")
    async with running(settings_for(parent, cache_dir=tmp_path / "sidecar")) as sidecar:
        await _push(sidecar, "", "", "cache")
        assert Kind.REWRITTEN not in sidecar.kinds()
    assert Kind.REWRITTEN in proxy.kinds()


async def test_two_proxies_see_each_others_caches(
    proxy: RunningProxy, standin: StandIn, tmp_path: Path
) -> None:
    await _push(proxy, "", "", "cache")
    async with running(settings_for(registry_of(standin), cache_dir=tmp_path / "two")) as another:
        got = await another.client.ask("GET", "/v2/app/manifests/cache", headers=OLD | ALL_TYPES)
        assert got.body == CACHE.index
        for blob in CACHE.blobs:
            path = f"/v2/app/blobs/{Digest.of(blob)}"
            assert (await another.client.ask("GET", path)).body == blob
