"""What is a cache and what is somebody else's, which must not be touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.buildcache import Form, NotACache, find_blobs, find_form, legacy_form, show, to_stored
from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.buildcache.manifests import (
    CONFIG,
    GZIP,
    compact,
    descriptor,
    docker_list,
    image_manifest,
    index,
    layers,
    listing,
    odd_caches,
    unhurried,
)

IMAGE = descriptor(OCI_MANIFEST, "amd64", platform={"architecture": "amd64", "os": "linux"})
ATTESTATION = descriptor(
    OCI_MANIFEST, "attestation", annotations={"vnd.docker.reference.type": "attestation-manifest"}
)
IMAGE_CONFIG = descriptor("application/vnd.oci.image.config.v1+json")
IN_TOTO = descriptor("application/vnd.in-toto+json")


def _without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


OTHERS: dict[str, Any] = {
    "an index of images": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [IMAGE]},
    "an index of images and attestations": {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [IMAGE, ATTESTATION],
    },
    "an index of layers alone": {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": layers(2),
    },
    "an empty index": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []},
    "an index of null": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": None},
    "a cache with an image in it": listing(OCI_INDEX, [*layers(1), IMAGE]),
    "a cache with two configs": listing(OCI_INDEX, [*layers(1), descriptor(CONFIG, "other")]),
    "a cache with a subject": index(subject=IMAGE),
    "a cache that is an artifact": index(artifactType="application/vnd.example"),
    "an image": image_manifest(config=IMAGE_CONFIG),
    "an attestation": image_manifest(config=IMAGE_CONFIG, layers=[IN_TOTO]),
    "an artifact with a cacheconfig": image_manifest(layers=[IN_TOTO]),
    "an image with a cacheconfig among its layers": image_manifest(
        config=IMAGE_CONFIG, layers=[descriptor(CONFIG)]
    ),
    "an image with two cacheconfigs": image_manifest(layers=[*layers(1), descriptor(CONFIG)]),
    "an image of Docker's": image_manifest(mediaType=DOCKER_MANIFEST),
    "an index and an image at once": index() | {"layers": []},
    "an index with a config": index() | {"config": descriptor(CONFIG)},
    "an index that says it is an image": index(mediaType=OCI_MANIFEST),
    "an image that says it is an index": image_manifest(mediaType=OCI_INDEX),
    "an index whose media type is a number": index(mediaType=0),
    "an index of another version": index(schemaVersion=1),
    "an index of version two as a float": index(schemaVersion=2.0),
    "an index of no version": _without(index(), "schemaVersion"),
    "an image without a config": _without(image_manifest(), "config"),
    "an image whose layers are an object": image_manifest(layers={}),
    "manifests that are an object": index(manifests={}),
    "a descriptor that is a string": index(manifests=["x", descriptor(CONFIG)]),
    "a descriptor without a digest": index(
        manifests=[_without(descriptor(GZIP), "digest"), descriptor(CONFIG)]
    ),
    "a digest that is none": listing(OCI_INDEX, [descriptor(GZIP) | {"digest": "sha256:../../x"}]),
    "a size that is a float": listing(OCI_INDEX, [descriptor(GZIP) | {"size": 1.0}]),
    "a negative size": listing(OCI_INDEX, [descriptor(GZIP) | {"size": -1}]),
    "an array": [],
    "a string": "x",
    "a number": 1,
    "null": None,
    "an empty object": {},
}


@pytest.mark.parametrize("document", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_cache_is_not_touched(document: Any) -> None:
    content = json.dumps(document).encode()
    assert find_form(content) is None
    with pytest.raises(NotACache):
        to_stored(content)
    with pytest.raises(NotACache):
        show(content, Form.OCI_INDEX)
    with pytest.raises(NotACache):
        legacy_form(content)


WHOLE = compact(index())
DEEP = b"[" * 100_000


UNREADABLE = [
    b"",
    b" ",
    b"{",
    WHOLE[:-1],
    WHOLE + b"x",
    WHOLE + WHOLE,
    b"\xef\xbb\xbf" + WHOLE,  # a byte order mark
    WHOLE.decode().encode("utf-16"),
    WHOLE.replace(b"cacheconfig", b"cache\xffconfig"),
    WHOLE[:-1] + b',"x":"\xed\xa0\x80"}',  # a surrogate in UTF-8
    WHOLE[:-1] + b',"x":NaN}',
    WHOLE[:-1] + b',"x":-Infinity}',
    WHOLE[:-1] + b',"x":01}',
    WHOLE[:-1] + b',"x":"\x00"}',
    WHOLE[:-1] + b",}",
    WHOLE[:-1] + b',"x"}',
    WHOLE[:-1] + b',"\\x":1}',
    WHOLE[:-1] + b",'x':1}",
    WHOLE[:-1] + b',"x":1' + b"0" * 10_000 + b"}",  # more digits than Python reads
    WHOLE[:-1] + b',"x":' + DEEP,
    WHOLE[:-1] + b',"x":' + DEEP + b"]" * len(DEEP) + b"}",
    WHOLE[:-1] + b',"x":' + b'{"x":' * 40 + b"1" + b"}" * 41,
    DEEP,
    WHOLE.replace(b"[", b"[,", 1),
    WHOLE.replace(b"]}", b",]}"),
    WHOLE.replace(b"]}", b"}"),
    # A key twice: which of the two its reader takes is anybody's guess.
    WHOLE[:-1] + b',"manifests":[]}',
    WHOLE[:-1] + b',"manifest\\u0073":[]}',
    WHOLE[:-1] + b',"schemaVersion":2}',
]


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_no_json_or_reads_in_two_ways_is_no_cache(content: bytes) -> None:
    assert find_form(content) is None
    with pytest.raises(NotACache):
        to_stored(content)


@unhurried
@given(st.binary())
def test_no_bytes_make_recognition_raise(content: bytes) -> None:
    find_form(content)


@unhurried
@given(odd_caches(), st.data())
def test_no_mutation_of_a_cache_makes_recognition_raise(
    content: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    mutated = content[:start] + data.draw(st.binary(max_size=8)) + content[end:]
    form = find_form(mutated)
    if form is None:
        with pytest.raises(NotACache):
            to_stored(mutated)
    else:
        assert show(to_stored(mutated).manifest.content, form) == mutated


@pytest.mark.parametrize(
    ("document", "form"),
    [
        (index(), Form.OCI_INDEX),
        (index(0), Form.OCI_INDEX),
        (index(1000), Form.OCI_INDEX),
        (docker_list(), Form.DOCKER_LIST),
        (docker_list(0), Form.DOCKER_LIST),
        (listing(DOCKER_LIST, layers(2)), Form.DOCKER_LIST),  # types of the other family
        (image_manifest(), Form.IMAGE_MANIFEST),
        (image_manifest(layers=None), Form.IMAGE_MANIFEST),
        (image_manifest(layers=[]), Form.IMAGE_MANIFEST),
        (_without(image_manifest(), "layers"), Form.IMAGE_MANIFEST),
        (image_manifest(subject=IMAGE, artifactType="x"), Form.IMAGE_MANIFEST),
        (index(annotations={"a": "b"}), Form.OCI_INDEX),
        (index(more={"a": [1.5]}), Form.OCI_INDEX),
        (index(manifests=[descriptor(CONFIG), *layers(1)]), Form.OCI_INDEX),  # config first
        (
            listing(OCI_INDEX, [descriptor("application/vnd.oci.image.layer.nydus.blob.v1")]),
            Form.OCI_INDEX,
        ),
    ],
)
def test_a_cache_is_recognised(document: Any, form: Form) -> None:
    assert find_form(json.dumps(document).encode()) is form


@pytest.mark.parametrize(
    ("document", "sent_as", "form"),
    [
        (_without(index(), "mediaType"), None, Form.OCI_INDEX),
        (_without(image_manifest(), "mediaType"), None, Form.IMAGE_MANIFEST),
        (index(mediaType=None), None, Form.OCI_INDEX),
        (index(mediaType=""), OCI_INDEX, Form.OCI_INDEX),
        (_without(index(), "mediaType"), OCI_INDEX, Form.OCI_INDEX),
        (_without(docker_list(), "mediaType"), DOCKER_LIST, Form.DOCKER_LIST),
        (_without(image_manifest(), "mediaType"), OCI_MANIFEST, Form.IMAGE_MANIFEST),
        (_without(index(), "mediaType"), OCI_MANIFEST, None),
        (_without(image_manifest(), "mediaType"), OCI_INDEX, None),
        (_without(image_manifest(), "mediaType"), DOCKER_MANIFEST, None),
        (index(), OCI_INDEX, Form.OCI_INDEX),
        (index(), DOCKER_LIST, None),
        (index(), "application/json", None),
        (docker_list(), OCI_INDEX, None),
    ],
)
def test_the_type_it_is_sent_under_decides_where_the_body_is_silent_and_must_agree_elsewhere(
    document: Any, sent_as: str | None, form: Form | None
) -> None:
    assert find_form(compact(document), sent_as) is form


def _at_depth(depth: int, ask: Callable[[], Form | None]) -> Form | None:
    return ask() if depth == 0 else _at_depth(depth - 1, ask)


@pytest.mark.parametrize("nesting", [20, 40, 400])
def test_the_verdict_does_not_depend_on_the_callers_stack(nesting: int) -> None:
    nested = b"[" * nesting + b"]" * nesting
    content = WHOLE[:-1] + b',"x":' + nested + b"}"
    shallow = find_form(content)
    assert _at_depth(600, lambda: find_form(content)) is shallow
    assert shallow is (Form.OCI_INDEX if nesting == 20 else None)


@pytest.mark.parametrize("make", [index, docker_list, image_manifest])
def test_a_cache_names_its_config_and_the_layers_that_its_registry_has(
    make: Callable[..., Any],
) -> None:
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    here = layers(2)
    elsewhere = descriptor(foreign, "elsewhere")
    if make is image_manifest:
        document = make(layers=[*here, elsewhere])
    else:
        document = make()
        document["manifests"] = [*here, elsewhere, descriptor(CONFIG, "config")]
    blobs = find_blobs(compact(document))
    assert blobs is not None
    assert blobs.config.digest == descriptor(CONFIG, "config")["digest"]
    assert list(blobs.layers) == [layer["digest"] for layer in here]


@pytest.mark.parametrize("document", OTHERS.values(), ids=OTHERS)
def test_what_is_no_cache_names_no_blobs(document: Any) -> None:
    assert find_blobs(compact(document)) is None
