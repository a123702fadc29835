"""BuildKit's caches through the proxy: what old and new clients push, what each of them reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.caches import ALL_TYPES, NEW, OLD, OLDEST, Cache, only
from tests.running import (
    Answer,
    Client,
    RunningProxy,
    running,
    settings_for,
    straight_to,
    with_registry,
)

CACHE = Cache.of(b"layer one", b"layer two" * 100)
EMPTY = Cache.of()

FORMS = [
    (OCI_INDEX, CACHE.index),
    (DOCKER_LIST, CACHE.docker_list),
    (OCI_MANIFEST, CACHE.image_manifest),
]


async def _push(client: Client, content: bytes, media_type: str, cache: Cache = CACHE) -> Answer:
    await cache.push_blobs(client, "app")
    answer = await client.push_manifest("app", "cache", content, media_type)
    assert answer.status == 201, answer
    return answer


async def _read(client: Client, path: str, headers: dict[str, str]) -> Answer:
    """GET, checked against HEAD, which must say the same of it."""
    head = await client.ask("HEAD", path, headers=headers)
    got = await client.ask("GET", path, headers=headers)
    assert got.status == head.status == 200, (head, got)
    assert (head.digest, head.media_type) == (got.digest, got.media_type)
    assert int(head.headers["Content-Length"]) == len(got.body)
    assert head.body == b""
    return got


def _tag(headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    return "/v2/app/manifests/cache", headers


async def test_a_legacy_index_is_refused_by_the_stand_in_itself(standin: StandIn) -> None:
    """What the proxy is for: without it the push fails as it does at ECR."""
    async with straight_to(standin) as client:
        await CACHE.push_blobs(client, "app")
        answer = await client.push_manifest("app", "cache", CACHE.index, OCI_INDEX)
    assert answer.status == 400
    assert b"MANIFEST_BLOB_UNKNOWN" in answer.body


@pytest.mark.parametrize(("media_type", "content"), FORMS)
async def test_a_push_is_answered_with_the_digest_of_the_clients_bytes(
    proxy: RunningProxy, media_type: str, content: bytes
) -> None:
    answer = await _push(proxy.client, content, media_type)
    assert answer.digest == Digest.of(content)


async def test_what_is_stored_equals_what_a_new_client_pushes(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await _push(proxy.client, CACHE.index, OCI_INDEX)
    async with straight_to(standin) as client:
        stored = await client.ask("GET", "/v2/app/manifests/cache", headers=ALL_TYPES)
    assert stored.body == CACHE.image_manifest
    assert stored.media_type == OCI_MANIFEST


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize(("media_type", "content"), FORMS)
async def test_the_clients_bytes_come_back_under_its_digest_after_a_restart(
    proxy: RunningProxy, media_type: str, content: bytes, emptied: bool
) -> None:
    await _push(proxy.client, content, media_type)
    await proxy.restart(empty_cache=emptied)
    if emptied:  # what is stored describes itself: one HEAD of the tag brings the digest back
        head = await proxy.client.ask(
            "HEAD", "/v2/app/manifests/cache", headers=OLD | only(media_type)
        )
        assert head.digest == Digest.of(content)
    got = await _read(
        proxy.client, f"/v2/app/manifests/{Digest.of(content)}", OLD | only(media_type)
    )
    assert (got.body, got.media_type) == (content, media_type)


@pytest.mark.parametrize("client", [OLD, OLDEST])
@pytest.mark.parametrize(("media_type", "content"), FORMS)
async def test_an_old_importer_gets_an_index_under_the_tag(
    proxy: RunningProxy, client: dict[str, str], media_type: str, content: bytes
) -> None:
    await _push(proxy.client, content, media_type)
    expected = CACHE.docker_list if media_type == DOCKER_LIST else CACHE.index
    got = await _read(proxy.client, *_tag(client | ALL_TYPES))
    assert got.body == expected
    by_digest = await _read(
        proxy.client, f"/v2/app/manifests/{got.digest}", client | only(got.media_type)
    )
    assert by_digest.body == expected


@pytest.mark.parametrize(
    "reader", [NEW, {"User-Agent": "skopeo/1.9.3"}, {"User-Agent": "docker/26.1"}, {}]
)
async def test_everyone_else_gets_what_is_stored(
    proxy: RunningProxy, reader: dict[str, str]
) -> None:
    await _push(proxy.client, CACHE.index, OCI_INDEX)
    got = await _read(proxy.client, *_tag(reader | ALL_TYPES))
    assert (got.body, got.media_type) == (CACHE.image_manifest, OCI_MANIFEST)


@pytest.mark.parametrize(("pushed_type", "pushed"), FORMS[:1] + FORMS[2:])
@pytest.mark.parametrize(("media_type", "content"), FORMS)
async def test_whoever_accepts_one_form_only_gets_that_form(
    proxy: RunningProxy, pushed_type: str, pushed: bytes, media_type: str, content: bytes
) -> None:
    """So a pusher's HEAD finds its own digest, and an unchanged export is not sent again."""
    await _push(proxy.client, pushed, pushed_type)
    got = await _read(proxy.client, *_tag(NEW | only(media_type)))
    assert (got.body, got.media_type) == (content, media_type)


@pytest.mark.parametrize(("first", "second"), [(0, 2), (2, 0), (1, 0), (0, 1), (1, 2), (2, 1)])
async def test_a_tag_may_be_exported_by_old_and_new_clients_in_turn(
    proxy: RunningProxy, first: int, second: int
) -> None:
    await _push(proxy.client, FORMS[first][1], FORMS[first][0])
    await _push(proxy.client, FORMS[second][1], FORMS[second][0])
    for digest in (Digest.of(FORMS[first][1]), Digest.of(FORMS[second][1])):
        await _read(proxy.client, f"/v2/app/manifests/{digest}", {})
    got = await _read(proxy.client, *_tag(OLD | ALL_TYPES))
    assert got.media_type in (OCI_INDEX, DOCKER_LIST)


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        (OCI_INDEX, EMPTY.index),
        (DOCKER_LIST, EMPTY.docker_list),
        (OCI_MANIFEST, EMPTY.image_manifest.replace(b'"layers":[]', b'"layers":null')),
    ],
)
async def test_a_cache_without_layers_is_stored_and_read_back_exactly(
    proxy: RunningProxy, standin: StandIn, media_type: str, content: bytes
) -> None:
    await _push(proxy.client, content, media_type, EMPTY)
    await proxy.restart(empty_cache=True)
    got = await _read(proxy.client, *_tag(OLD | only(media_type)))
    assert (got.body, got.media_type) == (content, media_type)
    again = await _read(proxy.client, f"/v2/app/manifests/{Digest.of(content)}", {})
    assert again.body == content


async def test_a_cache_of_too_many_layers_is_refused_before_anything_is_sent(
    proxy: RunningProxy, standin: StandIn
) -> None:
    cache = Cache.of(*(b"%d" % n for n in range(501)))
    before = len(standin.requests)
    answer = await proxy.client.push_manifest("app", "cache", cache.index, OCI_INDEX)
    assert answer.status == 400
    assert b"MANIFEST_INVALID" in answer.body
    assert b"500" in answer.body
    assert not [r for r in list(standin.requests)[before:] if r.method == "PUT"]


async def test_deleting_the_clients_digest_deletes_what_is_stored(proxy: RunningProxy) -> None:
    await _push(proxy.client, CACHE.index, OCI_INDEX)
    path = f"/v2/app/manifests/{Digest.of(CACHE.index)}"
    assert (await proxy.client.ask("DELETE", path)).status == 202
    for reference in (Digest.of(CACHE.index), Digest.of(CACHE.image_manifest), "cache"):
        gone = await proxy.client.ask("GET", f"/v2/app/manifests/{reference}")
        assert gone.status == 404, reference


async def test_an_image_index_passes_through_untouched(proxy: RunningProxy) -> None:
    image = CACHE.image_manifest.replace(
        b"vnd.buildkit.cacheconfig.v0", b"vnd.oci.image.config.v1+json"
    )
    await CACHE.push_blobs(proxy.client, "app")
    await proxy.client.push_manifest("app", Digest.of(image), image, OCI_MANIFEST)
    index = (
        b'{ "schemaVersion": 2, "mediaType": "%s",\n "manifests": [ {"mediaType": "%s", '
        b'"digest": "%s", "size": %d} ] }'
        % (OCI_INDEX.encode(), OCI_MANIFEST.encode(), Digest.of(image).encode(), len(image))
    )
    answer = await proxy.client.push_manifest("app", "image", index, OCI_INDEX)
    assert answer.digest == Digest.of(index)
    for reader in (OLD, OLDEST, NEW, {}):
        got = await _read(proxy.client, "/v2/app/manifests/image", reader | ALL_TYPES)
        assert (got.body, got.digest) == (index, Digest.of(index))


async def test_a_cache_pushed_straight_to_ecr_is_read_by_an_old_client(
    proxy: RunningProxy, standin: StandIn
) -> None:
    async with straight_to(standin) as client:
        await CACHE.push_blobs(client, "app")
        await client.push_manifest("app", "cache", CACHE.image_manifest, OCI_MANIFEST)
    got = await _read(proxy.client, *_tag(OLD | ALL_TYPES))
    assert got.body == CACHE.index


async def test_without_rewriting_an_old_client_gets_what_it_cannot_read(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = with_registry(
        settings_for(registry_of(standin), cache_dir=tmp_path), rewrite="never"
    )
    async with running(settings) as proxy:
        await _push(proxy.client, CACHE.image_manifest, OCI_MANIFEST)
        got = await _read(proxy.client, *_tag(OLD | ALL_TYPES))
        assert got.media_type == OCI_MANIFEST
        refused = await proxy.client.push_manifest("app", "cache", CACHE.index, OCI_INDEX)
        assert refused.status == 400
        assert b"required for pushing image into repository" in refused.body


@pytest.mark.parametrize(
    ("show", "expected"),
    [("stored", OCI_MANIFEST), ("index", OCI_INDEX), ("image-manifest", OCI_MANIFEST)],
)
async def test_one_form_can_be_forced_on_every_reader(
    standin: StandIn, tmp_path: Path, show: str, expected: str
) -> None:
    settings = with_registry(settings_for(registry_of(standin), cache_dir=tmp_path), show=show)
    async with running(settings) as proxy:
        await _push(proxy.client, CACHE.index, OCI_INDEX)
        for reader in (OLD, NEW, {}):
            got = await _read(proxy.client, *_tag(reader | ALL_TYPES))
            assert got.media_type == expected
