"""Manifests: digests computed and verified, media types, refusals in ECR's words."""

from __future__ import annotations

import json

import pytest

from proxy.errors import BadGateway, BlobUploadUnknown, ManifestUnknown, TagInvalid, UpstreamRefusal
from proxy.oci import MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST, Digest, RepositoryName, Tag
from proxy.upstream import ManifestHead, PutReply, Registry
from tests.upstream.fakes import Answer, FakeServer, ecr_error

REPO = RepositoryName("team/app")
TAG = Tag("v1")
CONTENT = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST}).encode()
DIGEST = Digest.of(CONTENT)
BY_TAG = f"/v2/{REPO}/manifests/{TAG}"
BY_DIGEST = f"/v2/{REPO}/manifests/{DIGEST}"


def found(content: bytes = CONTENT, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, content, {"Content-Type": OCI_MANIFEST, **given})


async def test_head_by_tag(ecr: Registry, server: FakeServer) -> None:
    server.tell("HEAD", BY_TAG, found(Docker_Content_Digest=DIGEST, Sizes=""))
    assert await ecr.head_manifest(REPO, TAG) == ManifestHead(DIGEST, OCI_MANIFEST, len(CONTENT))


async def test_head_without_a_digest_says_so(plain: Registry, server: FakeServer) -> None:
    server.tell("HEAD", BY_TAG, found(Docker_Content_Digest="nonsense"))
    assert (await plain.head_manifest(REPO, TAG)).digest is None


async def test_head_by_digest_knows_the_digest(plain: Registry, server: FakeServer) -> None:
    server.tell("HEAD", BY_DIGEST, found())
    assert (await plain.head_manifest(REPO, DIGEST)).digest == DIGEST


async def test_head_of_a_missing_manifest_names_it(ecr: Registry, server: FakeServer) -> None:
    server.tell("HEAD", BY_TAG, Answer(404))
    with pytest.raises(ManifestUnknown, match="manifest v1 of team/app"):
        await ecr.head_manifest(REPO, TAG)


@pytest.mark.parametrize("patient", [False, True])
async def test_who_is_patient_refuses_stale_answers(
    plain: Registry, server: FakeServer, patient: bool
) -> None:
    server.tell("HEAD", BY_TAG, found())
    await plain.head_manifest(REPO, TAG, patient=patient)
    (asked,) = (seen for seen in server.seen if seen.target == BY_TAG)
    assert asked.headers.get("Cache-Control") == ("no-cache" if patient else None)


@pytest.mark.parametrize(
    ("text", "age"),
    [("77", 77.0), ("", None), ("-1", None), ("1e3", None), ("٣", None), ("9" * 400, None)],
)
async def test_the_age_of_a_stale_answer_is_read(
    plain: Registry, server: FakeServer, text: str, age: float | None
) -> None:
    server.tell("HEAD", BY_TAG, found(Ecr_Cache_Proxy_Age=text))
    assert (await plain.head_manifest(REPO, TAG)).age == age


async def test_digest_is_computed_where_upstream_names_none(
    ecr: Registry, server: FakeServer
) -> None:
    server.tell("GET", BY_TAG, found())
    manifest = await ecr.get_manifest(REPO, TAG)
    assert (manifest.content, manifest.digest) == (CONTENT, DIGEST)


async def test_digest_of_another_algorithm_is_kept(plain: Registry, server: FakeServer) -> None:
    sha512 = Digest.of(CONTENT, "sha512")
    server.tell("GET", BY_TAG, found(Docker_Content_Digest=sha512))
    assert (await plain.get_manifest(REPO, TAG)).digest == sha512


async def test_wrong_bytes_are_refused(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", BY_DIGEST, found(b"<html>welcome</html>"))
    with pytest.raises(BadGateway, match=f"hash to .* which is {DIGEST}"):
        await plain.get_manifest(REPO, DIGEST)
    server.tell("GET", BY_TAG, found(b"{}", Docker_Content_Digest=DIGEST))
    with pytest.raises(BadGateway, match="hash to"):
        await plain.get_manifest(REPO, TAG)


async def test_more_than_a_manifest_may_be_is_refused(plain: Registry, server: FakeServer) -> None:
    limit = found(b"x" * MAX_MANIFEST_BYTES)
    server.tell("GET", BY_TAG, limit, found(b"x" * (MAX_MANIFEST_BYTES + 1)))
    assert len((await plain.get_manifest(REPO, TAG)).content) == MAX_MANIFEST_BYTES
    with pytest.raises(BadGateway, match="over 4194304 bytes"):
        await plain.get_manifest(REPO, TAG)


@pytest.mark.parametrize(
    ("content_type", "content", "expected"),
    [
        (f"{OCI_INDEX}; charset=utf-8", CONTENT, OCI_INDEX),
        ("application/json", CONTENT, OCI_MANIFEST),
        ("text/plain; charset=utf-8", CONTENT, OCI_MANIFEST),
        ("application/json", b"{}", "application/json"),
        ("application/json", b"[" * 100_000, "application/json"),
        ("text/plain", b"\xff", "text/plain"),
        ("application/\xe9", CONTENT, OCI_MANIFEST),
        ("application/\xe9", b"{}", ""),
    ],
)
async def test_media_type(
    plain: Registry, server: FakeServer, content_type: str, content: bytes, expected: str
) -> None:
    server.tell("GET", BY_TAG, Answer(200, content, {"Content-Type": content_type}))
    assert (await plain.get_manifest(REPO, TAG)).media_type == expected


async def test_put_sends_a_manifest_of_any_size(plain: Registry, server: FakeServer) -> None:
    content = b"x" * MAX_MANIFEST_BYTES
    server.tell("PUT", BY_TAG, Answer(201))
    await plain.put_manifest(REPO, TAG, content, OCI_MANIFEST)
    (sent,) = (seen for seen in server.seen if seen.method == "PUT")
    assert sent.body == content
    assert sent.headers["Content-Type"] == OCI_MANIFEST


async def test_put_sends_the_bytes_and_keeps_the_subject(
    plain: Registry, server: FakeServer
) -> None:
    headers = {"Docker-Content-Digest": DIGEST, "OCI-Subject": "sha256:" + "a" * 64}
    server.tell("PUT", BY_TAG, Answer(201, b"", headers))
    reply = await plain.put_manifest(REPO, TAG, CONTENT, OCI_MANIFEST)
    assert reply == PutReply(DIGEST, "sha256:" + "a" * 64)
    (seen,) = server.seen
    assert seen.body == CONTENT
    assert seen.headers["Content-Type"] == OCI_MANIFEST
    assert seen.headers["Content-Length"] == str(len(CONTENT))


async def test_put_without_a_digest_in_the_reply(ecr: Registry, server: FakeServer) -> None:
    server.tell("PUT", BY_TAG, Answer(201))
    assert await ecr.put_manifest(REPO, TAG, CONTENT, OCI_MANIFEST) == PutReply(None, None)


async def test_refused_put_keeps_the_words_of_ecr(ecr: Registry, server: FakeServer) -> None:
    server.tell(
        "PUT",
        BY_TAG,
        Answer(400, ecr_error("TAG_INVALID", "The image tag 'v1' already exists")),
        Answer(404, ecr_error("BLOB_UPLOAD_UNKNOWN", "Layers with digests '[a]' do not exist")),
        Answer(400, ecr_error("MANIFEST_BLOB_UNKNOWN", "Images with digests '[a]' do not exist")),
    )
    with pytest.raises(TagInvalid, match="The image tag 'v1' already exists"):
        await ecr.put_manifest(REPO, TAG, CONTENT, OCI_MANIFEST)
    with pytest.raises(BlobUploadUnknown, match="Layers with digests"):
        await ecr.put_manifest(REPO, TAG, CONTENT, OCI_MANIFEST)
    with pytest.raises(UpstreamRefusal) as raised:
        await ecr.put_manifest(REPO, TAG, CONTENT, OCI_INDEX)
    assert raised.value.wire_code == "MANIFEST_BLOB_UNKNOWN"


async def test_delete(plain: Registry, server: FakeServer) -> None:
    server.tell("DELETE", BY_DIGEST, Answer(202), Answer(404))
    await plain.delete_manifest(REPO, DIGEST)
    with pytest.raises(ManifestUnknown):
        await plain.delete_manifest(REPO, DIGEST)
