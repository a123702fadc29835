"""What a person who pushes is told to do: after ECR's own words, by its code and status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
    TagInvalid,
    UpstreamRefusal,
)
from proxy.events import Events
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest, RepositoryName, Tag
from proxy.services.registries import Target
from proxy.services.remedies import (
    explain_immutable,
    explain_missing_blobs,
    explain_missing_repository,
    is_immutable_refusal,
    missing_digests,
)
from proxy.standin import StandIn, StandInSettings
from proxy.upstream import RegistryConfig, open_registry
from proxy.upstream.errors import Kind, What, translate
from tests.standins import config_of

REPO = RepositoryName("team/app")
LAYERS = [Digest.of(b"%d" % number) for number in range(500)]
CONFIG = Digest.of(b"{}")
IMMUTABLE = "it cannot be overwritten because the tag is immutable."


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    settings = StandInSettings(repositories=(REPO,), immutable_tags=True)
    async with StandIn(settings) as standin:
        yield standin


@asynccontextmanager
async def open_ecr(standin: StandIn, name: str) -> AsyncIterator[Target]:
    config = config_of(standin, name=name, region="eu-west-1")
    registry = await open_registry(config, proxies={}, events=Events())
    yield Target(registry, REPO)
    await registry.close()


@pytest.fixture
async def ecr(standin: StandIn) -> AsyncIterator[Target]:
    """The strict stand-in, in which one repository exists."""
    async with open_ecr(standin, standin.host) as target:
        yield target


@pytest.fixture
async def lan() -> AsyncIterator[Target]:
    registry = await open_registry(
        RegistryConfig(name="lan:5000", url="http://lan:5000"), proxies={}, events=Events()
    )
    yield Target(registry, REPO)
    await registry.close()


def image(layers: Sequence[Digest]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG, "application/vnd.oci.image.config.v1+json"),
            "layers": [
                descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers
            ],
        }
    ).encode()


def descriptor(digest: Digest, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": 2}


async def push_blob(target: Target, content: bytes) -> Digest:
    async def body() -> AsyncIterator[bytes]:
        yield content

    upload = await target.registry.start_upload(target.repository)
    assert upload is not None
    digest = Digest.of(content)
    await target.registry.finish_upload(upload, digest, offset=0, length=len(content), body=body)
    return digest


async def refusal(target: Target, content: bytes, media_type: str) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await target.registry.put_manifest(target.repository, Tag("cache"), content, media_type)
    return refused.value


def distribution_error(*entries: tuple[str, str, object]) -> RegistryError:
    """What such a body becomes, as the answer to a manifest's PUT."""
    body = {"errors": [{"code": c, "message": m, "detail": d} for c, m, d in entries]}
    what = What("lan:5000", Kind.MANIFEST, REPO, "cache")
    return translate(400, {}, json.dumps(body).encode(), what)


async def test_a_missing_repository_is_told_with_the_command_that_creates_it(ecr: Target) -> None:
    elsewhere = replace(ecr, repository=RepositoryName("team/new"))
    with pytest.raises(NameUnknown) as refused:
        await ecr.registry.start_upload(elsewhere.repository)
    explained = explain_missing_repository(refused.value, elsewhere)
    assert type(explained) is NameUnknown
    assert explained.message.startswith(refused.value.message)
    assert "The repository with name 'team/new' does not exist" in explained.message
    command = "aws ecr create-repository --repository-name team/new --region eu-west-1;"
    assert command in explained.message
    assert "--create-repositories" in explained.message


async def test_the_remedies_of_ecr_are_not_told_of_other_registries(lan: Target) -> None:
    unknown = NameUnknown("repository name not known to registry")
    assert explain_missing_repository(unknown, lan) is unknown
    immutable = TagInvalid(IMMUTABLE)
    assert explain_immutable(immutable, lan, Tag("cache")) is immutable


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("public.ecr.aws", None),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "aws ecr create-repository --repository-name team/app --region us-gov-west-1",
        ),
        ("ecr.example", "aws ecr create-repository --repository-name team/app;"),
    ],
)
async def test_the_command_fits_the_registry(
    name: str, command: str | None, standin: StandIn
) -> None:
    async with open_ecr(standin, name) as target:
        told = explain_missing_repository(NameUnknown("no such repository"), target).message
    assert command in told if command else "aws ecr " not in told


async def test_an_immutable_tag_is_told_with_the_filter_that_exempts_it(ecr: Target) -> None:
    config, layer = await push_blob(ecr, b"{}"), await push_blob(ecr, b"layer")
    assert config == CONFIG
    content = image([layer])
    await ecr.registry.put_manifest(REPO, Tag("cache"), content, OCI_MANIFEST)
    error = await refusal(ecr, content, OCI_MANIFEST)
    assert is_immutable_refusal(error)
    explained = explain_immutable(error, ecr, Tag("cache"))
    assert type(explained) is TagInvalid
    assert explained.message.startswith("The image tag 'cache' already exists in the 'team/app' ")
    assert error.message in explained.message
    command = (
        "aws ecr put-image-tag-mutability --repository-name team/app --region eu-west-1 "
        "--image-tag-mutability IMMUTABLE_WITH_EXCLUSION "
        "--image-tag-mutability-exclusion-filters 'filterType=WILDCARD,filter=cache*'"
    )
    assert command in explained.message
    assert "filter=main-cache'" in explain_immutable(error, ecr, Tag("main-cache")).message
    patient = TagInvalid(IMMUTABLE, headers={"Retry-After": "1"})
    assert explain_immutable(patient, ecr, Tag("cache")).headers == patient.headers


@pytest.mark.parametrize(
    "error",
    [TagInvalid("tag 'a+b' is invalid"), ManifestInvalid("the tag is immutable, it seems")],
)
async def test_another_refusal_is_not_taken_for_an_immutable_tag(
    error: RegistryError, ecr: Target
) -> None:
    assert not is_immutable_refusal(error)
    assert explain_immutable(error, ecr, Tag("cache")) is error


async def test_every_layer_that_ecr_lacks_is_read_from_its_words(ecr: Target) -> None:
    error = await refusal(ecr, image(LAYERS), OCI_MANIFEST)
    assert type(error) is BlobUploadUnknown
    assert set(missing_digests(error)) == {*LAYERS, CONFIG}


async def test_children_that_ecr_lacks_are_read_and_have_no_remedy(ecr: Target) -> None:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    children = [descriptor(layer, OCI_MANIFEST) for layer in LAYERS[:2]]
    error = await refusal(ecr, json.dumps(index | {"manifests": children}).encode(), OCI_INDEX)
    assert error.wire_code == "MANIFEST_BLOB_UNKNOWN"
    assert missing_digests(error) == tuple(LAYERS[:2])
    assert explain_missing_blobs(error) is error


async def test_missing_layers_are_told_with_what_a_balancer_needs(ecr: Target) -> None:
    error = await refusal(ecr, image(LAYERS[:2]), OCI_MANIFEST)
    explained = explain_missing_blobs(error)
    assert type(explained) is BlobUploadUnknown
    assert explained.message.startswith("Layers with digests '[sha256:")
    assert error.message in explained.message
    assert 'push.mode = "write-through"' in explained.message
    assert missing_digests(explained) == missing_digests(error)


@pytest.mark.parametrize(
    ("error", "digests"),
    [
        (
            distribution_error(
                ("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", LAYERS[0]),
                ("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", LAYERS[1]),
                ("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", LAYERS[0]),
            ),
            (LAYERS[0], LAYERS[1]),
        ),
        (distribution_error(("MANIFEST_BLOB_UNKNOWN", "blob unknown", {"name": "x"})), ()),
        (BlobUnknown(f"blob {LAYERS[0]} unknown"), (LAYERS[0],)),
        (BlobUnknown(f"blob sha512:{'0f' * 64} unknown"), (Digest(f"sha512:{'0f' * 64}"),)),
        # Words that end, or begin, in the middle of a digest.
        (BlobUploadUnknown(f"Layers with digests '[{LAYERS[0]}, sha256:0123"), (LAYERS[0],)),
        (BlobUploadUnknown(f"Layers with digests '[{LAYERS[0]}0, x{LAYERS[1]}]'"), ()),
        # Other refusals, which name digests as well.
        (ManifestInvalid(f"The image with digest '{LAYERS[0]}' does not match"), ()),
        (ManifestUnknown(f"manifest {LAYERS[0]} is unknown"), ()),
        (UpstreamRefusal(f"{LAYERS[0]} is busy", code="CONFLICT", status=409), ()),
    ],
)
def test_missing_digests_are_read_from_refusals_for_missing_blobs_alone(
    error: RegistryError, digests: tuple[Digest, ...]
) -> None:
    assert missing_digests(error) == digests


def test_a_refusal_without_a_class_of_its_own_keeps_status_code_and_headers() -> None:
    error = UpstreamRefusal(
        "blob unknown", code="MANIFEST_BLOB_UNKNOWN", status=400, headers={"Retry-After": "7"}
    )
    explained = explain_missing_blobs(error)
    assert type(explained) is UpstreamRefusal
    assert explained.message.startswith("blob unknown (")
    assert (explained.wire_code, explained.wire_status) == ("MANIFEST_BLOB_UNKNOWN", 400)
    assert explained.headers == error.headers


def test_another_refusal_is_not_taken_for_missing_blobs() -> None:
    error = ManifestInvalid("manifest invalid")
    assert explain_missing_blobs(error) is error
