"""Nothing enters the cache that does not hash to its digest, and no client changes what others get.

Besides what is here: bodies of blobs in `faults/test_corruption`, mounts in `test_mounts`, files
that change on disk in `test_bit_rot`, repair in `test_commit_point`, registries in
`test_addressing`.
"""

from __future__ import annotations

import os
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Digest
from proxy.peer import PEER_HEADER
from proxy.standin import Fault, StandIn, StandInSettings
from tests.api.conftest import REPOSITORIES
from tests.api.pushing import CACHE, MIB, holds
from tests.caches import ALL_TYPES, NEW, OLD, OLDEST, Cache, only
from tests.running import Answer, RunningProxy, running, settings_for, with_registry

OTHER = Cache.of(b"another layer", b"and another")
UPLOADS = "/v2/app/blobs/uploads/"


@pytest.fixture
async def second() -> AsyncIterator[StandIn]:
    """Another account's registry."""
    settings = StandInSettings(account="210987654321", repositories=REPOSITORIES, rate_limits=False)
    async with StandIn(settings) as standin:
        yield standin


@pytest.fixture
async def both(standin: StandIn, second: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    """A proxy in front of two accounts."""
    settings = settings_for(registry_of(standin), registry_of(second), cache_dir=tmp_path / "both")
    async with running(settings) as proxy:
        yield proxy


@asynccontextmanager
async def pushing(standin: StandIn, tmp_path: Path, mode: str) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    if mode == "straight":
        settings = replace(settings, cache_size=MIB)
    else:
        settings = with_registry(settings, push_mode=mode)
    async with running(settings) as proxy:
        yield proxy


def assert_every_file_is_what_it_says(proxy: RunningProxy) -> None:
    for path in (proxy.settings.cache_dir / "blobs").rglob("*"):
        if path.is_file():
            digest = Digest.parse(f"{path.parent.parent.name}:{path.name}")
            assert Digest.of(path.read_bytes(), digest.algorithm) == digest


# What clients push


@pytest.mark.parametrize("mode", ["write-back", "write-through", "straight"])
@pytest.mark.parametrize("way", ["put", "patch", "post"])
async def test_bytes_that_are_pushed_under_another_digest_are_nobodys(
    standin: StandIn, tmp_path: Path, mode: str, way: str
) -> None:
    content, wanted = os.urandom(2 * MIB), Digest.of(b"what others want")
    async with pushing(standin, tmp_path, mode) as proxy:
        client = proxy.client
        if way == "post":
            done = await client.ask("POST", f"{UPLOADS}?digest={wanted}", body=content)
        else:
            location = (await client.ask("POST", UPLOADS)).headers["Location"]
            body: bytes | None = content
            if way == "patch":
                assert (await client.ask("PATCH", location, body=body)).status == 202
                body = None
            done = await client.ask("PUT", f"{location}?digest={wanted}", body=body)
            assert (await client.ask("GET", location)).status == 404
        assert done.status == 400
        assert b"DIGEST_INVALID" in done.body or b"BLOB_UPLOAD_INVALID" in done.body
        for digest in (wanted, Digest.of(content)):
            assert (await client.ask("HEAD", f"/v2/app/blobs/{digest}")).status == 404
            assert (await client.ask("GET", f"/v2/app/blobs/{digest}")).status == 404
        # Nor does it keep the right bytes from coming.
        assert await client.push_blob("app", b"what others want") == wanted
        assert (await client.ask("GET", f"/v2/app/blobs/{wanted}")).body == b"what others want"
        assert_every_file_is_what_it_says(proxy)
        assert Kind.CORRUPT not in proxy.kinds()
    assert not await holds(standin, content)


@pytest.mark.parametrize("first", [OCI_INDEX, OCI_MANIFEST])
@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (OTHER.index, OCI_INDEX),
        (OTHER.docker_list, DOCKER_LIST),
        (OTHER.image_manifest, OCI_MANIFEST),
    ],
)
async def test_a_manifest_under_anothers_digest_is_refused_and_changes_nothing(
    proxy: RunningProxy, standin: StandIn, first: str, content: bytes, media_type: str
) -> None:
    """Also one in a legacy form, whose digest is an alias here: it is its own bytes' alone."""
    await CACHE.push_blobs(proxy.client, "app")
    await OTHER.push_blobs(proxy.client, "app")
    right = CACHE.index if first == OCI_INDEX else CACHE.image_manifest
    path = f"/v2/app/manifests/{Digest.of(right)}"
    for known in (False, True):
        if known:
            pushed = await proxy.client.push_manifest("app", "cache", right, first)
            assert pushed.status == 201
        refused = await proxy.client.push_manifest("app", Digest.of(right), content, media_type)
        assert (refused.status, b"DIGEST_INVALID" in refused.body) == (400, True)
        got = await proxy.client.ask("GET", path, headers=only(first))
        assert (got.status, got.body == right) == ((200, True) if known else (404, False))
    assert not any(Digest.of(content) in r.path for r in standin.requests)


async def test_what_is_pushed_to_one_repository_is_not_read_in_another(
    proxy: RunningProxy,
) -> None:
    """Neither under a tag, nor under any digest, the client's own included."""
    for repository, cache in (("app", CACHE), ("other", OTHER)):
        await cache.push_blobs(proxy.client, repository)
        await proxy.client.push_manifest(repository, "cache", cache.index, OCI_INDEX)
    before = await _all_of(proxy, "other", OTHER)
    third = Cache.of(b"pushed over it")
    await third.push_blobs(proxy.client, "app")
    for content, media_type in ((third.index, OCI_INDEX), (third.image_manifest, OCI_MANIFEST)):
        pushed = await proxy.client.push_manifest("app", "cache", content, media_type)
        assert pushed.status == 201
        assert await _all_of(proxy, "other", OTHER) == before
        assert await _read(proxy, "/v2/app/manifests/cache", NEW | ALL_TYPES) == (
            200,
            third.image_manifest,
        )
        for cache in (third, CACHE):
            for digest in map(Digest.of, (cache.index, cache.image_manifest)):
                assert (await _read(proxy, f"/v2/other/manifests/{digest}", {}))[0] == 404
    assert (await proxy.client.ask("DELETE", "/v2/app/manifests/cache")).status == 202
    assert await _all_of(proxy, "other", OTHER) == before


async def test_an_upload_goes_to_the_repository_where_it_was_begun(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """Also where its last request says nothing of that, and mounts from elsewhere."""
    location = (await proxy.client.ask("POST", UPLOADS)).headers["Location"]
    digest = Digest.of(b"mine")
    done = await proxy.client.ask(
        "PUT", f"{location}?digest={digest}&from=other&mount={digest}", body=b"mine"
    )
    assert done.status == 201
    await proxy.until_upstream(digest)
    assert await holds(standin, b"mine", "app")
    assert not await holds(standin, b"mine", "other")


# Upload locations


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
async def test_a_location_that_this_proxy_did_not_give_leads_to_no_upload(
    both: RunningProxy, proxy: RunningProxy, second: StandIn, method: str
) -> None:
    location = (await both.client.ask("POST", UPLOADS)).headers["Location"]
    assert (await both.client.ask("PATCH", location, body=b"mine")).status == 202
    token = location.rpartition("/")[2]
    elsewhere = (await proxy.client.ask("POST", UPLOADS)).headers["Location"]
    flipped = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]
    forged = {
        "altered": UPLOADS + flipped,
        "truncated": location[:-1],
        "short": UPLOADS + token[:10],
        "longer": location + "A",
        "padded": location + "=" * (-len(token) % 4 or 4),
        "another spelling": f"{UPLOADS}{token[:20]}!{token[20:]}",
        "not base64": UPLOADS + "%00%ff" + token,
        "a path": f"{UPLOADS}..%5c..%5cblobs",
        "another repository's": location.replace("/app/", "/other/"),
        "another registry's": location.replace("/v2/", f"/v2/{second.host}/"),
        "another registry's by ns": f"{location}?ns={second.host}",
        "another proxy's": elsewhere,
    }
    digest = Digest.of(b"mine, and more")
    for what, path in forged.items():
        if method == "PUT":
            path += ("&" if "?" in path else "?") + f"digest={digest}"
        body = b", and more" if method in ("PATCH", "PUT") else None
        answer = await both.client.ask(method, path, body=body)
        assert answer.status == 404, what
        assert b"BLOB_UPLOAD_UNKNOWN" in answer.body, what
    # Nothing of that has touched it.
    assert (await both.client.ask("GET", location)).headers["Range"] == "0-3"
    done = await both.client.ask("PUT", f"{location}?digest={digest}", body=b", and more")
    assert done.status == 201


async def test_a_location_is_written_in_one_way(proxy: RunningProxy) -> None:
    """Base64 of so many bytes ends in bits that stand for nothing: they may be no others."""
    started = await proxy.client.ask("POST", "/v2/team/app/blobs/uploads/")
    location = started.headers["Location"]
    for last in string.ascii_letters + string.digits + "-_":
        status = 204 if last == location[-1] else 404
        assert (await proxy.client.ask("GET", location[:-1] + last)).status == status
    assert len(location.rpartition("/")[2]) % 4, "there are no such bits"


# What upstream says


@pytest.mark.parametrize("reference", ["tag", "digest"])
async def test_a_manifest_that_is_not_its_digests_is_not_handed_out_or_kept(
    proxy: RunningProxy, standin: StandIn, reference: str
) -> None:
    """By a header that names another digest, where a tag was asked for."""
    CACHE.seed(standin, "app", "cache")
    right = Digest.of(CACHE.image_manifest)
    path = f"/v2/app/manifests/{'cache' if reference == 'tag' else right}"
    wrong = Fault(
        server="registry",
        method="GET",
        path="/manifests/",
        status=200,
        body=OTHER.image_manifest.decode(),
        headers={"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": right},
    )
    standin.faults.add(wrong)
    refused = await proxy.client.ask("GET", path, headers=NEW | ALL_TYPES)
    assert refused.status == 502
    assert b"hash" in refused.body
    for digest, found in ((right, 200), (Digest.of(OTHER.image_manifest), 404)):
        got = await proxy.client.ask("GET", f"/v2/app/manifests/{digest}", headers=ALL_TYPES)
        assert got.status == found
    assert await _read(proxy, path, NEW | ALL_TYPES) == (200, CACHE.image_manifest)


async def test_a_push_that_upstream_names_otherwise_is_known_by_its_own_digest(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await CACHE.push_blobs(proxy.client, "app")
    lie = Digest.of(OTHER.image_manifest)
    standin.faults.add(
        Fault(
            server="registry",
            method="PUT",
            path="/manifests/",
            status=201,
            headers={"Docker-Content-Digest": lie},
        )
    )
    await proxy.client.push_manifest("app", "cache", CACHE.image_manifest, OCI_MANIFEST)
    got = await proxy.client.ask("GET", f"/v2/app/manifests/{lie}", headers=ALL_TYPES)
    assert got.status == 404


# What clients ask with

WAYS = [
    OLD | ALL_TYPES,
    OLDEST | ALL_TYPES,
    only(OCI_INDEX),
    only(DOCKER_LIST),
    only("application/nonsense"),
    {"Accept": "text/html, */*;q=0.1", "User-Agent": "Mozilla/5.0"},
    NEW | ALL_TYPES | {PEER_HEADER: "9.9.9"},
    OLD | ALL_TYPES | {"Cache-Control": "no-cache", "Pragma": "no-cache"},
    ALL_TYPES | {"Accept-Encoding": "gzip", "Range": "bytes=0-1", "If-None-Match": "*"},
    ALL_TYPES | {"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
]


@pytest.mark.parametrize("headers", WAYS)
@pytest.mark.parametrize("stored", ["pushed", "upstream"])
@pytest.mark.parametrize("query", ["", "?ns="])
async def test_how_one_client_asks_changes_nothing_for_others(
    proxy: RunningProxy, standin: StandIn, headers: dict[str, str], stored: str, query: str
) -> None:
    """It comes first, to a cache that knows nothing yet."""
    if stored == "upstream":
        CACHE.seed(standin, "app", "cache")
    else:
        await CACHE.push_blobs(proxy.client, "app")
        await proxy.client.push_manifest("app", "cache", CACHE.index, OCI_INDEX)
    if query:
        query += standin.host
    index, image = Digest.of(CACHE.index), Digest.of(CACHE.image_manifest)
    blob = Digest.of(CACHE.layers[0])
    for path in (f"manifests/{image}", f"manifests/{index}", "manifests/cache", f"blobs/{blob}"):
        for method in ("HEAD", "GET"):
            await proxy.client.ask(method, f"/v2/app/{path}{query}", headers=headers)
    assert await _all_of(proxy, "app", CACHE) == [
        (200, CACHE.index),
        (200, CACHE.image_manifest),
        (200, CACHE.index),
        (200, CACHE.image_manifest),
        *[(200, blob) for blob in CACHE.blobs],
    ]
    assert_every_file_is_what_it_says(proxy)


async def _read(proxy: RunningProxy, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    answer: Answer = await proxy.client.ask("GET", path, headers=headers)
    return answer.status, answer.body


async def _all_of(proxy: RunningProxy, repository: str, cache: Cache) -> list[tuple[int, bytes]]:
    """What clients get of a cache: by tag and by digest, old ones and new ones, and its blobs."""
    index, image = Digest.of(cache.index), Digest.of(cache.image_manifest)
    manifests = f"/v2/{repository}/manifests"
    return [
        await _read(proxy, f"{manifests}/cache", OLD | ALL_TYPES),
        await _read(proxy, f"{manifests}/cache", NEW | ALL_TYPES),
        await _read(proxy, f"{manifests}/{index}", OLD | only(OCI_INDEX)),
        await _read(proxy, f"{manifests}/{image}", NEW | only(OCI_MANIFEST)),
        *[await _read(proxy, f"/v2/{repository}/blobs/{Digest.of(b)}", {}) for b in cache.blobs],
    ]
