"""What people meet when something is wrong: ECR's own words, a header where there is no body."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config import RegistrySettings
from proxy.events import Kind
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for

MISSING = Digest.of(b"missing")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("HEAD", "/v2/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/app/manifests/{MISSING}", 404, "MANIFEST_UNKNOWN"),
        ("HEAD", f"/v2/app/manifests/{MISSING}", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", f"/v2/app/manifests/{MISSING}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/app/blobs/{MISSING}", 404, "BLOB_UNKNOWN"),
        ("HEAD", f"/v2/app/blobs/{MISSING}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/nowhere/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/app/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("HEAD", "/v2/app/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("PUT", "/v2/app/manifests/-bad", 400, "TAG_INVALID"),
        ("PATCH", "/v2/app/tags/list", 405, "UNSUPPORTED"),
        ("GET", "/v2/app/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/app", 404, "UNSUPPORTED"),
        ("GET", "/index.html", 404, "UNSUPPORTED"),
    ],
)
async def test_every_error_is_the_registrys_json_and_a_header(
    proxy: RunningProxy, method: str, path: str, status: int, code: str
) -> None:
    got = await proxy.client.ask(method, path)
    assert got.status == status, got
    assert got.headers["Ecr-Cache-Proxy-Error"].startswith(f"{code}: ")
    if method != "HEAD":
        error = json.loads(got.body)["errors"][0]
        assert error["code"] == code
        assert error["message"]


async def test_ecrs_own_words_reach_the_client(proxy: RunningProxy) -> None:
    cache = Cache.of(b"never pushed")
    got = await proxy.client.push_manifest("app", "t", cache.image_manifest, OCI_MANIFEST)
    assert got.status == 404
    message = json.loads(got.body)["errors"][0]["message"]
    assert "required for pushing image into repository with name 'app'" in message
    assert Digest.of(b"never pushed") in message


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"x" * (4 * 1024 * 1024 + 1), OCI_MANIFEST, 413, "MANIFEST_INVALID"),
        (b"{", OCI_INDEX, 405, "UNSUPPORTED"),
        (b"[" * 100_000, OCI_INDEX, 405, "UNSUPPORTED"),
        (b"\xff\xfe", OCI_INDEX, 405, "UNSUPPORTED"),
    ],
)
async def test_a_manifest_that_makes_no_sense_is_refused(
    proxy: RunningProxy, content: bytes, media_type: str, status: int, code: str
) -> None:
    got = await proxy.client.push_manifest("app", "t", content, media_type)
    assert (got.status, json.loads(got.body)["errors"][0]["code"]) == (status, code)


async def test_a_manifest_under_another_digest_is_refused(proxy: RunningProxy) -> None:
    got = await proxy.client.push_manifest("app", MISSING, b"{}", OCI_MANIFEST)
    assert got.status == 400
    assert b"DIGEST_INVALID" in got.body
    assert Digest.of(b"{}").encode() in got.body


async def test_a_manifest_without_a_media_type_is_refused(proxy: RunningProxy) -> None:
    async with proxy.client.session.put(
        f"http://{proxy.address}/v2/app/manifests/t",
        data=b"{}",
        skip_auto_headers=["Content-Type"],
    ) as got:
        assert got.status == 400
        assert b"Content-Type" in await got.read()


async def test_an_upstream_that_cannot_be_reached_is_a_502_that_names_it(tmp_path: Path) -> None:
    nobody = RegistrySettings(name="127.0.0.1:9", url="http://127.0.0.1:9")
    async with running(settings_for(nobody, cache_dir=tmp_path)) as proxy:
        got = await proxy.client.ask("GET", "/v2/app/manifests/latest")
        assert got.status in (502, 503)
        assert b"127.0.0.1:9" in got.body


async def test_ping_and_health_answer(proxy: RunningProxy, standin: StandIn) -> None:
    await proxy.until(Kind.TOKEN)
    ping = await proxy.client.ask("GET", "/v2/")
    assert ping.status == 200
    assert ping.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert (await proxy.client.ask("GET", "/livez")).status == 200
    assert (await proxy.client.ask("GET", "/readyz")).status == 200
