"""What ECR does differently from the specification, absorbed: no client meets it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Denial, Fault, StandIn, StandInSettings
from tests.caches import ALL_TYPES, Cache
from tests.running import RunningProxy, running, settings_for, with_registry

CACHE = Cache.of(b"layer one" * 1000, b"layer two")
LAYER = f"/v2/app/blobs/{Digest.of(CACHE.layers[0])}"
TAG = "/v2/app/manifests/cache"


async def _seed(standin: StandIn) -> None:
    CACHE.seed(standin, "app", "cache")


@pytest.fixture
async def seeded(standin: StandIn) -> StandIn:
    await _seed(standin)
    return standin


async def _strange(settings: StandInSettings, folder: Path) -> AsyncIterator[RunningProxy]:
    async with StandIn(settings) as standin:
        await _seed(standin)
        async with running(settings_for(registry_of(standin), cache_dir=folder)) as proxy:
            yield proxy


async def test_a_token_that_expires_is_replaced_and_nobody_notices(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    assert (await proxy.client.ask("GET", TAG)).status == 200
    seeded.state.expire_tokens()
    assert (await proxy.client.ask("GET", LAYER)).body == CACHE.layers[0]
    assert (await proxy.client.ask("GET", TAG)).status == 200
    assert proxy.kinds().count(Kind.TOKEN) == 2


async def test_a_token_that_expires_within_a_push_costs_no_push(
    standin: StandIn, proxy: RunningProxy
) -> None:
    # A token ends once in twelve hours, so each time one is in use that upstream has taken before.
    await CACHE.push_blobs(proxy.client, "app")
    await proxy.until_upstream(*map(Digest.of, CACHE.blobs))
    standin.state.expire_tokens()
    content = b"another layer"
    started = await proxy.client.ask("POST", "/v2/app/blobs/uploads/")
    standin.state.expire_tokens()
    path = f"{started.headers['Location']}?digest={Digest.of(content)}"
    assert (await proxy.client.ask("PUT", path, body=content)).status == 201
    await proxy.until_upstream(Digest.of(content))
    standin.state.expire_tokens()
    pushed = await proxy.client.push_manifest("app", "c", CACHE.image_manifest, OCI_MANIFEST)
    assert pushed.status == 201


async def test_storage_never_sees_credentials(seeded: StandIn, proxy: RunningProxy) -> None:
    assert (await proxy.client.ask("GET", LAYER)).status == 200
    storage = [request for request in seeded.requests if request.server == "s3"]
    assert storage
    assert all(request.header("Authorization") is None for request in storage)
    asked = [request for request in seeded.requests if request.server == "registry"]
    assert all(request.header("Accept-Encoding") == "identity" for request in (*storage, *asked))


async def test_a_clients_credentials_never_go_upstream(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    mine = {"Authorization": "Basic bWU6bXkgc2VjcmV0"}
    assert (await proxy.client.ask("GET", TAG, headers=mine)).status == 200
    assert all(
        request.header("Authorization") != mine["Authorization"] for request in seeded.requests
    )


@pytest.mark.parametrize("status", [403, 400])
async def test_an_expired_url_is_asked_for_again(
    seeded: StandIn, proxy: RunningProxy, status: int
) -> None:
    expired = "<Error><Code>ExpiredToken</Code></Error>"
    seeded.faults.add(Fault(server="s3", method="GET", status=status, body=expired))
    assert (await proxy.client.ask("GET", LAYER)).body == CACHE.layers[0]
    redirects = [r for r in seeded.requests if r.server == "registry" and r.status == 307]
    assert len(redirects) == 2


async def test_a_head_of_the_client_is_a_head_upstream(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("HEAD", LAYER)
    for _ in range(2):
        await proxy.client.ask("HEAD", TAG, headers=ALL_TYPES)
    asked = [(r.method, r.path) for r in seeded.requests if r.server == "registry"]
    # A manifest is read once, to see whether it is a cache that has lost something.
    read = ("GET", f"/v2/app/manifests/{Digest.of(CACHE.image_manifest)}")
    assert asked.count(read) == 1
    assert {method for method, _ in asked if (method, _) != read} == {"HEAD"}


async def test_gets_have_the_digest_that_ecr_leaves_out(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    got = await proxy.client.ask("GET", TAG, headers=ALL_TYPES)
    assert got.digest == Digest.of(CACHE.image_manifest)


async def test_a_manifest_is_fetched_once_and_a_tag_is_asked_for_each_time(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    for _ in range(3):
        assert (await proxy.client.ask("GET", TAG, headers=ALL_TYPES)).status == 200
    asked = [(r.method, r.path) for r in seeded.requests if "/manifests/" in r.path]
    assert sum(method == "HEAD" and path.endswith("/cache") for method, path in asked) == 3
    assert sum(method == "GET" for method, _ in asked) == 1
    seeded.state.put_manifest("app", CACHE.image_manifest + b" ", OCI_MANIFEST, tag="cache")
    moved = await proxy.client.ask("GET", TAG, headers=ALL_TYPES)
    assert moved.digest == Digest.of(CACHE.image_manifest + b" ")


async def test_a_principal_without_the_json_api_works_through_the_registry_api(
    tmp_path: Path,
) -> None:
    json_only = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:DescribeRepositories",
        "ecr:DescribeImages",
        "ecr:CreateRepository",
    ]
    settings = StandInSettings(
        repositories=("app",),
        denials=tuple(Denial(action) for action in json_only[1:]),
        rate_limits=False,
    )
    async for proxy in _strange(settings, tmp_path):
        await CACHE.push_blobs(proxy.client, "app")
        pushed = await proxy.client.push_manifest("app", "c", CACHE.image_manifest, OCI_MANIFEST)
        assert pushed.status == 201
        assert (await proxy.client.ask("GET", LAYER)).status == 200


async def test_a_denial_keeps_the_words_of_iam(tmp_path: Path) -> None:
    settings = StandInSettings(
        repositories=("app",), denials=(Denial("ecr:PutImage"),), rate_limits=False
    )
    async for proxy in _strange(settings, tmp_path):
        got = await proxy.client.push_manifest("app", "c", CACHE.image_manifest, OCI_MANIFEST)
        assert got.status == 403
        error = json.loads(got.body)["errors"][0]
        assert error["code"] == "DENIED"
        assert "is not authorized to perform: ecr:PutImage" in error["message"]


async def test_a_registry_that_drops_the_connection_means_a_missing_repository(
    tmp_path: Path,
) -> None:
    settings = StandInSettings(
        repositories=("app",), unknown_repository_closes_socket=True, rate_limits=False
    )
    async for proxy in _strange(settings, tmp_path):
        got = await proxy.client.ask("POST", "/v2/nowhere/blobs/uploads/")
        assert got.status in (404, 502)
        assert b"nowhere" in got.body


async def test_an_immutable_tag_is_refused_in_ecrs_words(tmp_path: Path) -> None:
    settings = StandInSettings(repositories=("app",), immutable_tags=True, rate_limits=False)
    async for proxy in _strange(settings, tmp_path):
        content = CACHE.image_manifest.replace(b'"schemaVersion":2', b'"schemaVersion": 2')
        got = await proxy.client.push_manifest("app", "cache", content, OCI_MANIFEST)
        assert got.status == 400
        assert b"cannot be overwritten because the tag is immutable" in got.body


async def test_without_credentials_it_starts_and_says_what_was_tried(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    settings = with_registry(
        settings_for(registry_of(standin), cache_dir=tmp_path / "cache"),
        access_key_id=None,
        secret_access_key=None,
    )
    async with running(settings) as proxy:
        got = await proxy.client.ask("GET", TAG)
        assert got.status == 503
        message = json.loads(got.body)["errors"][0]["message"]
        assert "credentials" in message
        assert "AWS_ACCESS_KEY_ID" in message
        ready = await proxy.client.ask("GET", "/readyz")
        assert ready.status == 503
        assert standin.host.encode() in ready.body
        assert (await proxy.client.ask("GET", "/livez")).status == 200


async def test_no_tags_at_all_can_be_asked_for(seeded: StandIn, proxy: RunningProxy) -> None:
    """ECR itself refuses n=0."""
    got = await proxy.client.ask("GET", "/v2/app/tags/list?n=0")
    assert (got.status, json.loads(got.body)["tags"]) == (200, [])
    assert "Link" not in got.headers
    assert (await proxy.client.ask("GET", "/v2/nowhere/tags/list?n=0")).status == 404


async def test_more_tags_than_ecr_gives_at_once_are_cut_to_pages(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    got = await proxy.client.ask("GET", "/v2/app/tags/list?n=5000")
    assert (got.status, json.loads(got.body)["tags"]) == (200, ["cache"])
