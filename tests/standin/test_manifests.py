"""Pushing manifests: ECR.md §4, the stand-in's lines 24 to 33."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from tests.standin.client import (
    CONFIG,
    CONFIG_TYPE,
    LAYER_TYPE,
    REPOSITORY,
    Client,
    descriptor,
    image,
)
from tests.standin.conftest import Running

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
CONSTRAINT = "Invalid parameter at 'ImageManifest' failed to satisfy constraint: '{}'"


def index(*children: dict[str, Any], media_type: str = OCI_INDEX, **more: Any) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": media_type, "manifests": list(children), **more}
    ).encode()


async def push_blobs(client: Client, *blobs: bytes) -> None:
    for blob in (*blobs, CONFIG):
        await client.push_blob(blob)


async def test_a_manifest_put_is_201_without_a_location(client: Client) -> None:
    await push_blobs(client, b"layer")
    answer = await client.put_manifest(image([b"layer"]))
    assert (answer.status, answer.body) == (201, b"")
    assert "Location" not in answer.headers


@pytest.mark.parametrize("on", [True, False])
async def test_whether_a_put_names_the_digest_is_a_switch(running: Running, on: bool) -> None:
    async with running(put_digest_header=on) as client:
        await push_blobs(client, b"layer")
        answer = await client.put_manifest(image([b"layer"]))
        assert ("Docker-Content-Digest" in answer.headers) == on


async def test_missing_layers_and_a_missing_config_are_404_naming_them(client: Client) -> None:
    await client.push_blob(b"one")
    answer = await client.put_manifest(image([b"one", b"two", b"three"]))
    missing = ", ".join(Digest.of(each) for each in (CONFIG, b"two", b"three"))
    assert answer.error == (
        404,
        "BLOB_UPLOAD_UNKNOWN",
        (
            f"Layers with digests '[{missing}]' required for pushing image into repository with "
            f"name '{REPOSITORY}' in the registry with id '123456789012' do not exist"
        ),
    )


async def test_the_check_of_layers_can_be_switched_off(running: Running) -> None:
    async with running(check_layers=False) as client:
        assert (await client.put_manifest(image([b"never pushed"]))).status == 201


async def test_a_layer_of_another_repository_is_missing(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/other")) as client:
        await client.push_image(b"layer", repository="team/other")
        assert (await client.put_manifest(image([b"layer"]))).status == 404


async def test_foreign_layers_need_not_be_there(client: Client) -> None:
    await push_blobs(client, b"layer")
    foreign = descriptor(
        b"windows", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["http://x/"]
    )
    content = image([b"layer"], layers=[foreign, descriptor(b"layer")])
    assert (await client.put_manifest(content)).status == 201


@pytest.mark.parametrize(
    ("media_type", "layer_type"),
    [
        (OCI_INDEX, LAYER_TYPE),
        (DOCKER_LIST, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ],
)
async def test_a_legacy_cache_index_is_refused_naming_its_layers_as_images(
    client: Client, media_type: str, layer_type: str
) -> None:
    await push_blobs(client, b"one", b"two")
    content = index(
        descriptor(b"one", layer_type),
        descriptor(b"two", layer_type),
        descriptor(CONFIG, CACHE_CONFIG),
        media_type=media_type,
    )
    answer = await client.put_manifest(content, media_type=media_type)
    named = ", ".join(Digest.of(each) for each in (b"one", b"two", CONFIG))
    assert answer.error == (
        400,
        "MANIFEST_BLOB_UNKNOWN",
        (
            f"Images with digests '[{named}]' required for pushing image into repository with name "
            f"'{REPOSITORY}' in the registry with id '123456789012' do not exist"
        ),
    )


async def test_an_index_of_stored_images_is_accepted(client: Client) -> None:
    content = await client.push_image(b"layer")
    child = descriptor(content, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    for media_type in (OCI_INDEX, DOCKER_LIST):
        answer = await client.put_manifest(
            index(child, media_type=media_type), "multi", media_type=media_type
        )
        assert answer.status == 201


async def test_a_cache_as_an_image_manifest_is_accepted(client: Client) -> None:
    await push_blobs(client, b"layer")
    content = image([b"layer"], config=descriptor(CONFIG, CACHE_CONFIG))
    assert (await client.put_manifest(content)).status == 201


async def test_schema_2_arbitrary_types_and_artifacts_are_accepted(client: Client) -> None:
    await push_blobs(client, b"layer", b"{}")
    docker = image([b"layer"], mediaType=DOCKER_MANIFEST)
    assert (await client.put_manifest(docker, media_type=DOCKER_MANIFEST)).status == 201
    artifact = image(
        [],
        artifactType="application/x.example",
        config=descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        layers=[descriptor(b"layer", "text/x-anything")],
    )
    assert (await client.put_manifest(artifact, "artifact")).status == 201
    without_type = json.loads(image([b"layer"]))
    del without_type["mediaType"]
    assert (await client.put_manifest(json.dumps(without_type).encode(), "bare")).status == 201


@pytest.mark.parametrize("layers", [[], None])
async def test_an_image_without_layers_is_405(client: Client, layers: object) -> None:
    await push_blobs(client)
    answer = await client.put_manifest(image([], layers=layers))
    message = CONSTRAINT.format("Image has to have at least 1 layer")
    assert answer.error == (405, "UNSUPPORTED", message)


async def test_500_layers_are_accepted_and_501_are_405(client: Client) -> None:
    await push_blobs(client, b"layer")
    assert (await client.put_manifest(image([b"layer"] * 500))).status == 201
    message = CONSTRAINT.format("Limit on number of layers per image exceeded")
    answer = await client.put_manifest(image([b"layer"] * 501))
    assert answer.error == (405, "UNSUPPORTED", message)


SUBJECT = descriptor(b"subject", OCI_MANIFEST)
BAD_PLATFORM = {"os": "windows", "architecture": "amd64", "os.features": ["win32k"]}


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        pytest.param(OCI_MANIFEST, b'{"schemaVersion":2,', id="malformed JSON"),
        pytest.param(OCI_MANIFEST, b"\xff\xfe", id="no text"),
        pytest.param(OCI_MANIFEST, b"[]", id="no object"),
        pytest.param(OCI_MANIFEST, b"[" * 100_000, id="too deep"),
        pytest.param(OCI_MANIFEST, image([b"l"], schemaVersion=1), id="schema 1"),
        pytest.param(OCI_MANIFEST, image([b"l"], layers=[{"digest": "x"}]), id="a layer"),
        pytest.param(OCI_MANIFEST, image([b"l"], layers="many"), id="layers"),
        pytest.param(OCI_MANIFEST, image([b"l"], config=None), id="no config"),
        pytest.param(
            OCI_MANIFEST,
            image([b"l"], subject={**SUBJECT, "platform": {"os": "linux"}}),
            id="platform inside subject",
        ),
        pytest.param(
            OCI_INDEX,
            index(descriptor(b"x", OCI_MANIFEST, platform=BAD_PLATFORM)),
            id="os.features",
        ),
        pytest.param(
            OCI_MANIFEST,
            image([b"l"], layers=[descriptor(b"l", "text/plain;charset=utf-8")]),
            id="layer type with parameters",
        ),
        pytest.param(
            OCI_MANIFEST,
            image([b"l"], config=descriptor(CONFIG, f"{CONFIG_TYPE}; v=1")),
            id="config type with parameters",
        ),
        pytest.param(
            OCI_MANIFEST, image([b"l"], artifactType="a/b;c=d"), id="artifact type with parameters"
        ),
    ],
)
async def test_what_ecr_calls_invalid_json_syntax_is_405(
    client: Client, media_type: str, content: bytes
) -> None:
    await push_blobs(client, b"l")
    answer = await client.put_manifest(content, media_type=media_type)
    assert answer.error == (405, "UNSUPPORTED", CONSTRAINT.format("Invalid JSON syntax"))


@pytest.mark.parametrize(
    "media_type", ["", "application/json", "application/vnd.docker.distribution.manifest.v1+json"]
)
async def test_another_media_type_is_refused(client: Client, media_type: str) -> None:
    await push_blobs(client, b"l")
    answer = await client.put_manifest(image([b"l"]), media_type=media_type)
    assert answer.error[:2] == (405, "UNSUPPORTED")


async def test_a_content_type_that_the_manifest_contradicts_is_refused(client: Client) -> None:
    await push_blobs(client, b"l")
    answer = await client.put_manifest(image([b"l"]), media_type=OCI_INDEX)
    assert answer.error[:2] == (405, "UNSUPPORTED")


async def test_docker_layers_in_an_oci_manifest_are_a_switch(running: Running) -> None:
    docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    content = image([b"l"], layers=[descriptor(b"l", docker)])
    for accepted, status in ((True, 201), (False, 405)):
        async with running(docker_layers_in_oci=accepted) as client:
            await push_blobs(client, b"l")
            assert (await client.put_manifest(content)).status == status


async def test_a_manifest_over_4_mib_is_refused(client: Client) -> None:
    await push_blobs(client, b"l")
    exactly = image([b"l"], annotations={"a": ""})
    room = 4 * 1024 * 1024 - len(exactly)
    largest = image([b"l"], annotations={"a": "x" * room})
    assert len(largest) == 4 * 1024 * 1024
    assert (await client.put_manifest(largest)).status == 201
    answer = await client.put_manifest(largest + b" ")
    message = "Member must have length less than or equal to 4194304"
    assert answer.error == (405, "UNSUPPORTED", CONSTRAINT.format(message))


async def test_put_under_a_wrong_digest_is_400(client: Client) -> None:
    await push_blobs(client, b"l")
    wrong = Digest.of(b"something else")
    assert (await client.put_manifest(image([b"l"]), wrong)).error == (
        400,
        "MANIFEST_INVALID",
        (
            f"The image with digest '{wrong}' in repository '{REPOSITORY}' and registry ID "
            "'123456789012' does not match the image digest that Amazon ECR has calculated."
        ),
    )
    right = image([b"l"])
    assert (await client.put_manifest(right, Digest.of(right))).status == 201


async def test_an_immutable_tag_is_not_overwritten_not_even_by_the_same(running: Running) -> None:
    async with running(immutable_tags=True, immutable_exclusions=("cache*", "*-dev")) as client:
        content = await client.push_image(b"one", tag="v1")
        refusal = (
            400,
            "TAG_INVALID",
            (
                f"The image tag 'v1' already exists in the '{REPOSITORY}' repository and cannot be "
                "overwritten because the tag is immutable."
            ),
        )
        assert (await client.put_manifest(content, "v1")).error == refusal
        await client.push_blob(b"two")
        assert (await client.put_manifest(image([b"two"]), "v1")).error == refusal
        assert (await client.put_manifest(content, Digest.of(content))).status == 201
        for excluded in ("cache-main", "x-dev"):
            assert (await client.put_manifest(content, excluded)).status == 201
            assert (await client.put_manifest(image([b"two"]), excluded)).status == 201


async def test_an_identical_push_to_a_mutable_tag_is_201(client: Client) -> None:
    content = await client.push_image(b"layer")
    assert (await client.put_manifest(content)).status == 201


async def test_a_subject_is_echoed_be_it_there_or_not(client: Client) -> None:
    await push_blobs(client, b"l")
    answer = await client.put_manifest(image([b"l"], subject=SUBJECT))
    assert answer.status == 201
    assert answer.headers["OCI-Subject"] == SUBJECT["digest"]
