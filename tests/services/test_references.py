"""What a manifest names, and what of that a registry has surely looked for."""

from __future__ import annotations

import json

import pytest

from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest, Manifest
from proxy.services.references import find_checked, find_references

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))


def _described(digest: Digest, kind: str, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": 1, **more}


IMAGE = {"config": _described(A, CONFIG), "layers": [_described(B, LAYER)]}
INDEX = {"manifests": [_described(A, OCI_MANIFEST), _described(B, OCI_MANIFEST)]}


def _read(document: object, media_type: str) -> tuple[Digest, ...]:
    content = json.dumps(document).encode()
    return find_checked(Manifest(content, media_type, Digest.of(content)))


@pytest.mark.parametrize(
    ("document", "media_type"),
    [(IMAGE, OCI_MANIFEST), (IMAGE, DOCKER_MANIFEST), (INDEX, OCI_INDEX), (INDEX, DOCKER_LIST)],
)
def test_all_that_an_image_or_an_index_is_made_of_is_checked(
    document: dict[str, object], media_type: str
) -> None:
    assert _read(document, media_type) == (A, B)
    assert _read({**document, "mediaType": media_type}, media_type) == (A, B)
    assert _read({**document, "subject": _described(C, OCI_MANIFEST)}, media_type) == (A, B)


@pytest.mark.parametrize("more", [{"mediaType": FOREIGN}, {"urls": ["https://cdn.example/c"]}])
def test_a_layer_that_lies_elsewhere_is_not_checked(more: dict[str, object]) -> None:
    elsewhere = {**_described(C, LAYER), **more}
    image = {**IMAGE, "layers": [*IMAGE["layers"], elsewhere]}
    assert _read(image, OCI_MANIFEST) == (A, B)
    assert _read({"manifests": [*INDEX["manifests"], elsewhere]}, OCI_INDEX) == (A, B)
    assert find_references(json.dumps(image).encode()) == (A, B, C)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({**IMAGE, **INDEX}, OCI_MANIFEST),
        ({**IMAGE, **INDEX}, OCI_INDEX),
        ({**IMAGE, "blobs": [_described(C, LAYER)]}, OCI_MANIFEST),
        ({**INDEX, "config": _described(C, CONFIG)}, OCI_INDEX),
        ({**IMAGE, "mediaType": DOCKER_MANIFEST}, OCI_MANIFEST),
        (IMAGE, OCI_INDEX),
        (INDEX, OCI_MANIFEST),
        (IMAGE, "application/vnd.oci.artifact.manifest.v1+json"),
        ({"blobs": [_described(C, LAYER)]}, OCI_MANIFEST),
        ([IMAGE], OCI_MANIFEST),
    ],
)
def test_nothing_is_taken_for_checked_in_what_can_be_read_in_two_ways(
    document: object, media_type: str
) -> None:
    assert _read(document, media_type) == ()


@pytest.mark.parametrize(
    "layer",
    [
        f'{{"mediaType":"{LAYER}","digest":"{B}","digest":"{C}"}}',
        f'{{"mediaType":"{LAYER}","digest":"{B}","Digest":"{C}"}}',
        f'{{"mediaType":"{LAYER}","mediaType":"{FOREIGN}","digest":"{C}"}}',
    ],
)
def test_a_key_that_is_there_twice_leaves_nothing_that_is_surely_checked(layer: str) -> None:
    content = f'{{"config":{json.dumps(IMAGE["config"])},"layers":[{layer}]}}'.encode()
    assert find_checked(Manifest(content, OCI_MANIFEST, Digest.of(content))) == ()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_manifest_names_nothing(content: bytes) -> None:
    assert find_references(content) == ()
    assert find_checked(Manifest(content, OCI_MANIFEST, Digest.of(content))) == ()
