"""Reading manifests and blobs: ECR.md §3 and §5, the stand-in's lines 7 to 13, 16 and 36 to 38."""

from __future__ import annotations

import json

import pytest

from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.standin.client import CONFIG, REPOSITORY, Client
from tests.standin.conftest import Running

NOTHING = "sha256:" + "0" * 64
ACCOUNT = "123456789012"


async def test_head_manifest_names_the_digest_and_has_an_empty_sizes(client: Client) -> None:
    content = await client.push_image(b"layer")
    for reference in ("latest", Digest.of(content)):
        answer = await client.ask("HEAD", f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Docker-Content-Digest"] == Digest.of(content)
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.headers["Content-Type"] == OCI_MANIFEST
        assert answer.headers["Sizes"] == ""
        assert "Date" in answer.headers
        assert "ETag" not in answer.headers


async def test_get_manifest_does_not_name_the_digest(client: Client) -> None:
    content = await client.push_image(b"layer")
    for reference in ("latest", Digest.of(content)):
        answer = await client.ask("GET", f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["Content-Type"] == OCI_MANIFEST
        assert "Docker-Content-Digest" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        (None, 200, OCI_MANIFEST),
        (f"{OCI_MANIFEST}", 200, OCI_MANIFEST),
        (f"{DOCKER_MANIFEST}, */*", 200, OCI_MANIFEST),
        (f"{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.5", 200, OCI_MANIFEST),
        (f"{DOCKER_MANIFEST}", 200, DOCKER_MANIFEST),
        (f"{OCI_INDEX}, {DOCKER_LIST}", 404, None),
    ],
)
async def test_accept_is_honoured_by_tag(
    client: Client, accept: str | None, status: int, media_type: str | None
) -> None:
    content = await client.push_image(b"layer")
    headers = {"Accept": accept} if accept else {}
    path = f"/v2/{REPOSITORY}/manifests/latest"
    got = await client.ask("GET", path, headers={"Accept": "*/*", **headers})
    head = await client.ask("HEAD", path, headers={"Accept": "*/*", **headers})
    assert got.status == head.status == status
    if status == 200:
        assert got.headers["Content-Type"] == media_type
        assert got.json["mediaType"] == media_type
        assert head.headers["Docker-Content-Digest"] == Digest.of(got.body)
        assert (got.body == content) == (media_type == OCI_MANIFEST)


async def test_a_converted_manifest_has_the_other_types_of_the_same_blobs(client: Client) -> None:
    content = json.loads(await client.push_image(b"layer"))
    headers = {"Accept": DOCKER_MANIFEST}
    got = (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/latest", headers=headers)).json
    assert got["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    [layer] = got["layers"]
    assert layer["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert layer["digest"] == content["layers"][0]["digest"]


async def test_a_manifest_is_never_converted_by_digest(client: Client) -> None:
    content = await client.push_image(b"layer")
    answer = await client.ask(
        "GET",
        f"/v2/{REPOSITORY}/manifests/{Digest.of(content)}",
        headers={"Accept": DOCKER_MANIFEST},
    )
    assert answer.body == content


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (f"{REPOSITORY}/manifests/nothing", ("MANIFEST_UNKNOWN", "Requested image not found")),
        (f"{REPOSITORY}/manifests/{NOTHING}", ("MANIFEST_UNKNOWN", "Requested image not found")),
        (
            "team/nothing/manifests/latest",
            (
                "NAME_UNKNOWN",
                (
                    "The repository with name 'team/nothing' does not exist in the registry with "
                    f"id '{ACCOUNT}'"
                ),
            ),
        ),
        (
            f"team/nothing/blobs/{NOTHING}",
            (
                "NAME_UNKNOWN",
                (
                    "The repository with name 'team/nothing' does not exist in the registry with "
                    f"id '{ACCOUNT}'"
                ),
            ),
        ),
        (
            f"{REPOSITORY}/blobs/{NOTHING}",
            (
                "BLOB_UNKNOWN",
                (
                    f"The layer with digest {NOTHING} does not exist within the repository with "
                    f"name '{REPOSITORY}' in the registry with id '{ACCOUNT}'"
                ),
            ),
        ),
    ],
)
async def test_what_is_not_there_is_404_in_ecrs_words(
    client: Client, path: str, error: tuple[str, str]
) -> None:
    assert (await client.ask("GET", f"/v2/{path}")).error == (404, *error)
    head = await client.ask("HEAD", f"/v2/{path}")
    assert (head.status, head.body) == (404, b"")


@pytest.mark.parametrize("tag", ["a+b", "a%2Bb", "-a", ".a", "a" * 301, "%C3%A9"])
async def test_invalid_tag_characters_are_400_and_empty_on_head(client: Client, tag: str) -> None:
    path = f"/v2/{REPOSITORY}/manifests/{tag}"
    assert (await client.ask("GET", path)).error[:2] == (400, "TAG_INVALID")
    head = await client.ask("HEAD", path)
    assert (head.status, head.body) == (400, b"")
    assert (await client.put_manifest(b"{}", tag)).error[:2] == (400, "TAG_INVALID")


async def test_a_tag_of_300_characters_is_taken(client: Client) -> None:
    await client.push_image(b"layer", tag="a" * 300)
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/{'a' * 300}")).status == 200


@pytest.mark.parametrize("name", ["UPPER/case", "a", "a//b", "a/-b", "a___b", "a" * 257])
async def test_an_invalid_name_is_refused_before_anything_else_is_looked_at(
    client: Client, name: str
) -> None:
    answer = await client.ask("GET", f"/v2/{name}/manifests/a+b")
    assert answer.error[:2] == (400, "NAME_INVALID")


@pytest.mark.parametrize("digest", ["sha256:abc", "sha256:" + "A" * 64, "sha512:" + "0" * 128])
async def test_only_sha256_digests_are_taken(client: Client, digest: str) -> None:
    for path in (f"blobs/{digest}", f"manifests/{digest}"):
        answer = await client.ask("GET", f"/v2/{REPOSITORY}/{path}")
        assert answer.error[:2] == (400, "DIGEST_INVALID")


async def test_head_blob_says_it_is_an_image_config(client: Client) -> None:
    digest = await client.push_blob(b"a layer")
    answer = await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "application/vnd.docker.container.image.v1+json"
    assert answer.headers["Content-Length"] == "7"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert "Location" not in answer.headers


async def test_an_unreferenced_blob_is_seen_by_head_and_refused_to_get(client: Client) -> None:
    digest = await client.push_blob(b"orphan")
    path = f"/v2/{REPOSITORY}/blobs/{digest}"
    assert (await client.ask("HEAD", path)).status == 200
    status, code, message = (await client.ask("GET", path)).error
    assert (status, code) == (404, "BLOB_UNKNOWN")
    assert "not associated with an image" in message
    await client.push_image(b"orphan")
    assert (await client.ask("GET", path)).status == 307
    await client.ask("DELETE", f"/v2/{REPOSITORY}/manifests/latest")
    assert (await client.ask("GET", path)).status == 404


@pytest.mark.parametrize(("setting", "answered"), [(403, 403), (200, 307)])
async def test_what_an_unreferenced_blob_gets_is_a_switch(
    running: Running, setting: int, answered: int
) -> None:
    async with running(unreferenced_blob_status=setting) as client:
        digest = await client.push_blob(b"orphan")
        assert (await client.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}")).status == answered


async def test_an_archived_image_is_404_until_it_is_pushed_again(
    client: Client, standin: StandIn
) -> None:
    content = await client.push_image(b"layer")
    standin.state.archive(REPOSITORY, "latest")
    for reference in ("latest", Digest.of(content)):
        answer = await client.ask("GET", f"/v2/{REPOSITORY}/manifests/{reference}")
        assert answer.error == (404, "MANIFEST_UNKNOWN", "Requested image not found")
    assert (await client.put_manifest(content)).status == 201
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/latest")).status == 200


async def test_a_blob_of_one_repository_is_404_in_another(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/other")) as client:
        await client.push_image(b"layer")
        path = f"blobs/{Digest.of(b'layer')}"
        assert (await client.ask("HEAD", f"/v2/{REPOSITORY}/{path}")).status == 200
        for method in ("HEAD", "GET"):
            assert (await client.ask(method, f"/v2/team/other/{path}")).status == 404


async def test_a_fresh_push_is_404_to_as_many_reads_as_were_asked_for(
    client: Client, standin: StandIn
) -> None:
    standin.state.lag_reads = 2
    content = await client.push_image(b"layer")
    for path in (f"manifests/{Digest.of(content)}", f"blobs/{Digest.of(CONFIG)}"):
        answers = [(await client.ask("HEAD", f"/v2/{REPOSITORY}/{path}")).status for _ in "123"]
        assert answers == [404, 404, 200]


async def test_a_fresh_push_is_404_for_as_long_as_was_asked_for(running: Running) -> None:
    async with running(lag_seconds=2.0) as client:
        clock = client.standin.state.clock
        clock.freeze()
        await client.push_image(b"layer")
        path = f"/v2/{REPOSITORY}/manifests/latest"
        assert (await client.ask("GET", path)).status == 404
        clock.advance(2)
        assert (await client.ask("GET", path)).status == 200
