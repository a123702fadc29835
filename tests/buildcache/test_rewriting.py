"""What is stored for a cache, and that it comes back: case by case."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.buildcache import (
    Form,
    TooLarge,
    TooManyLayers,
    Unstorable,
    legacy_form,
    show,
    to_stored,
)
from proxy.oci import (
    DOCKER_LIST,
    EMPTY_DESCRIPTOR,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
)
from tests.buildcache.manifests import (
    CONFIG,
    DOCKER_GZIP,
    DOCKER_LAYERS,
    GZIP,
    OCI_LAYERS,
    compact,
    descriptor,
    docker_list,
    image_manifest,
    index,
    layers,
    listing,
)

FORM = "io.github.ecr-cache-proxy.form"
ORIGINAL = "io.github.ecr-cache-proxy.original"
FOREIGN_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"


def _stored(content: bytes) -> dict[str, Any]:
    stored = to_stored(content)
    assert show(stored.manifest.content, stored.form) == content
    document: dict[str, Any] = json.loads(stored.manifest.content)
    return document


def _carries(content: bytes) -> bool:
    return ORIGINAL in _stored(content).get("annotations", {})


@pytest.mark.parametrize(("docker", "oci"), [*zip(DOCKER_LAYERS, OCI_LAYERS, strict=True)])
def test_docker_layer_types_are_stored_as_their_oci_twins(docker: str, oci: str) -> None:
    content = compact(listing(DOCKER_LIST, [descriptor(docker)]))
    stored = _stored(content)
    assert [layer["mediaType"] for layer in stored["layers"]] == [oci]
    assert stored["config"] == descriptor(CONFIG, "config")
    assert not _carries(content)


def test_nothing_but_the_media_type_of_a_docker_layer_changes() -> None:
    layer = descriptor(DOCKER_GZIP, annotations={"mediaType": DOCKER_GZIP, "<&>": "é\u2028"})
    stored = to_stored(compact(listing(DOCKER_LIST, [layer]))).manifest.content
    assert compact({**layer, "mediaType": GZIP}) in stored


def test_a_type_that_has_no_docker_name_stays_what_it_is_in_a_docker_list() -> None:
    """BuildKit leaves it in the list under its OCI name."""
    content = compact(listing(DOCKER_LIST, [descriptor(FOREIGN_ZSTD)]))
    assert not _carries(content)
    assert _stored(content)["layers"][0]["mediaType"] == FOREIGN_ZSTD


CARRIED: dict[str, bytes] = {
    "whitespace": json.dumps(index(), indent=2).encode(),
    "a newline at the end": compact(index()) + b"\n",
    "another order of members": compact(dict(reversed(index().items()))),
    "annotations": compact(index(annotations={"a": "b"})),
    "no media type": compact({k: v for k, v in index().items() if k != "mediaType"}),
    "the config first": compact(index(manifests=[descriptor(CONFIG), *layers(2)])),
    "an escape in a key": compact(index()).replace(b'"manifests"', b'"\\u006danifests"'),
    "an escape in a type": compact(docker_list()).replace(b"application/", b"application\\/"),
    "Docker layers in an OCI index": compact(listing(OCI_INDEX, layers(2, DOCKER_GZIP))),
    "OCI layers in a Docker list": compact(listing(DOCKER_LIST, layers(2))),
    "foreign zstd by a Docker name": compact(
        listing(
            DOCKER_LIST, [descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.zstd")]
        )
    ),
    "a media type twice": compact(listing(DOCKER_LIST, layers(1, DOCKER_GZIP))).replace(
        b'{"mediaType":"application/vnd.docker.image',
        b'{"mediaType":"%s","mediaType":"application/vnd.docker.image' % GZIP.encode(),
    ),
    "annotations of ours": compact(index(annotations={FORM: "docker-list", ORIGINAL: "x"})),
}


@pytest.mark.parametrize("content", CARRIED.values(), ids=CARRIED.keys())
def test_what_the_inverse_does_not_restore_is_carried_along(content: bytes) -> None:
    assert _carries(content)
    stored = _stored(content)
    assert stored["mediaType"] == OCI_MANIFEST
    assert stored["config"]["mediaType"] == CONFIG
    assert all(layer["mediaType"] in [*OCI_LAYERS, FOREIGN_ZSTD] for layer in stored["layers"])


def test_a_descriptor_keeps_every_byte_of_its_own() -> None:
    head = rb'{ "size":12345678901234567890, "x": 1.50e+01, "\u0061": "\ud800\/",'
    text = head + b'\n\t"mediaType":"%s","digest":"%s" }'
    oci, docker = (
        text % (media_type.encode(), Digest.of(b"x").encode()) for media_type in (GZIP, DOCKER_GZIP)
    )
    content = compact(index(0)).replace(b'"manifests":[', b'"manifests":[' + oci + b" , ")
    assert _carries(content)
    stored = to_stored(content).manifest.content
    assert b'"layers":[' + oci + b"]" in stored
    assert b'"manifests":[' + docker + b"," in show(stored, Form.DOCKER_LIST)


def test_a_layer_named_twice_is_kept_twice() -> None:
    content = compact(listing(OCI_INDEX, layers(1) * 2))
    assert len(_stored(content)["layers"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        compact(index(0)),
        compact(docker_list(0)),
        compact(image_manifest(layers=None)),
        compact(image_manifest(layers=[])),
        compact({k: v for k, v in image_manifest().items() if k != "layers"}),
        json.dumps(image_manifest(layers=None, annotations={"a": "b"})).encode(),
    ],
)
def test_a_cache_without_layers_is_stored_with_the_empty_one(content: bytes) -> None:
    stored = to_stored(content)
    document = _stored(content)
    (layer,) = document["layers"]
    assert (layer["mediaType"], layer["digest"], layer["size"]) == (
        EMPTY_DESCRIPTOR.media_type,
        EMPTY_DESCRIPTOR.digest,
        EMPTY_DESCRIPTOR.size,
    )
    assert stored.needs_empty_blob
    assert _carries(content)
    assert document["annotations"][FORM] == stored.form.value
    # To everybody else it is a cache without layers too, and no blob is named that is no layer.
    for form in (Form.OCI_INDEX, Form.DOCKER_LIST):
        if form is not stored.form:
            shown = json.loads(show(stored.manifest.content, form))
            assert [each["mediaType"] for each in shown["manifests"]] == [CONFIG]
    if stored.form is not Form.IMAGE_MANIFEST:
        assert show(stored.manifest.content, Form.IMAGE_MANIFEST) == stored.manifest.content


def test_a_cache_with_the_empty_layer_is_stored_as_it_is() -> None:
    """One without layers that some other program has padded, or that was copied from here."""
    padding = {
        "mediaType": EMPTY_DESCRIPTOR.media_type,
        "digest": EMPTY_DESCRIPTOR.digest,
        "size": 2,
        "data": "e30=",
    }
    content = compact(image_manifest(layers=[padding]))
    stored = to_stored(content)
    assert stored.manifest.content == content
    assert not stored.needs_empty_blob
    assert show(content, Form.OCI_INDEX) == compact(index(0))


def test_what_a_registry_acts_on_stays_on_a_cache_without_layers() -> None:
    subject = descriptor(OCI_MANIFEST, "image")
    content = compact(image_manifest(layers=[], artifactType="application/x", subject=subject))
    stored = _stored(content)
    assert stored["subject"] == subject
    assert stored["artifactType"] == "application/x"


@pytest.mark.parametrize("make", [index, docker_list, image_manifest])
def test_five_hundred_layers_are_taken_and_one_more_is_refused_with_the_remedy(make: Any) -> None:
    assert len(_stored(compact(make(500)))["layers"]) == 500
    with pytest.raises(TooManyLayers, match=r"501 layers.*at most 500.*mode=min") as caught:
        to_stored(compact(make(501)))
    assert isinstance(caught.value, Unstorable)
    assert (caught.value.layers, caught.value.limit) == (501, 500)


def test_the_limit_is_the_callers() -> None:
    assert (
        len(json.loads(to_stored(compact(index(501)), max_layers=None).manifest.content)["layers"])
        == 501
    )
    with pytest.raises(TooManyLayers):
        to_stored(compact(index(2)), max_layers=1)


def test_the_limit_does_not_keep_a_cache_from_being_shown() -> None:
    content = compact(index(600))
    assert show(show(content, Form.IMAGE_MANIFEST), Form.OCI_INDEX) == content


def test_digests_are_of_the_algorithm_asked_for() -> None:
    content = compact(docker_list())
    stored = to_stored(content, algorithm="sha512")
    assert stored.client == Digest.of(content, "sha512")
    assert stored.manifest.digest == Digest.of(stored.manifest.content, "sha512")
    assert stored.manifest.content == to_stored(content).manifest.content


def test_a_list_of_dockers_is_known_by_the_type_it_is_sent_under() -> None:
    content = compact({k: v for k, v in docker_list().items() if k != "mediaType"})
    stored = to_stored(content, media_type=DOCKER_LIST)
    assert stored.form is Form.DOCKER_LIST
    assert legacy_form(stored.manifest.content) is Form.DOCKER_LIST
    assert show(stored.manifest.content, Form.DOCKER_LIST) == content


def test_what_cannot_be_stored_with_its_original_is_refused() -> None:
    noise = "".join(Digest.of(str(number).encode()).hex for number in range(60_000))
    content = compact(index(noise=noise))
    assert len(content) < MAX_MANIFEST_BYTES
    assert to_stored(content).form is Form.OCI_INDEX  # hex digits still pack into half
    layer = descriptor(GZIP, noise=noise[: len(noise) // 2])
    with pytest.raises(TooLarge, match="image-manifest=true"):
        to_stored(
            compact(listing(OCI_INDEX, [layer], noise=noise[len(noise) // 2 :][::-1])) + b" " * 100
        )


@pytest.mark.parametrize("make", [index, docker_list])
def test_five_hundred_layers_take_milliseconds(make: Any) -> None:
    content = compact(make(500))
    started = time.process_time()
    for _ in range(5):
        show(to_stored(content).manifest.content, Form.OCI_INDEX)
    assert (time.process_time() - started) / 5 < 0.2  # on a slow machine; some 20 ms elsewhere
