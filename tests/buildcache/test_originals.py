"""A carried original is shown only if it belongs to the manifest that carries it."""

from __future__ import annotations

import base64
import time
import zlib
from typing import Any

import pytest

from proxy.buildcache import Form, legacy_form, show
from tests.buildcache.manifests import (
    CONFIG,
    compact,
    descriptor,
    docker_list,
    image_manifest,
    index,
    layers,
)

FORM = "io.github.ecr-cache-proxy.form"
ORIGINAL = "io.github.ecr-cache-proxy.original"


def _with_original(original: bytes, form: Form = Form.OCI_INDEX) -> bytes:
    packed = base64.b64encode(zlib.compress(original)).decode()
    return compact(image_manifest(annotations={FORM: form.value, ORIGINAL: packed}))


def test_an_original_that_belongs_is_shown() -> None:
    original = compact(index()) + b"\n"
    assert show(_with_original(original), Form.OCI_INDEX) == original


@pytest.mark.parametrize(
    "original",
    [
        compact(index(1)) + b"\n",  # other layers
        compact(index(manifests=[*layers(2), descriptor(CONFIG, "other")])) + b"\n",
        compact(docker_list()) + b"\n",  # another form than the annotation says
        compact(image_manifest()),
        b"no manifest",
        b"",
    ],
)
def test_an_original_that_says_something_else_is_not_shown(original: bytes) -> None:
    stored = _with_original(original)
    assert show(stored, Form.OCI_INDEX) == compact(index())
    assert show(stored, Form.IMAGE_MANIFEST) == stored


@pytest.mark.parametrize(
    "packed",
    [
        "",
        "*",
        "e30=",
        "é",
        base64.b64encode(zlib.compress(compact(index()))[:-4]).decode(),  # cut
        base64.b64encode(zlib.compress(compact(index())) + b"x").decode(),  # something follows
        7,
        None,
    ],
)
def test_an_original_that_does_not_unpack_is_not_shown(packed: Any) -> None:
    stored = compact(image_manifest(annotations={FORM: "index", ORIGINAL: packed}))
    assert show(stored, Form.OCI_INDEX) == compact(index())


def test_an_original_that_unpacks_without_end_does_no_harm() -> None:
    """No more is unpacked than a manifest may have; whole, this one would be 128 MiB."""
    packer = zlib.compressobj(9)
    mebibyte = bytes(1024 * 1024)
    bomb = b"".join(packer.compress(mebibyte) for _ in range(128)) + packer.flush()
    notes = {FORM: "index", ORIGINAL: base64.b64encode(bomb).decode()}
    started = time.process_time()
    assert show(compact(image_manifest(annotations=notes)), Form.OCI_INDEX) == compact(index())
    assert time.process_time() - started < 2


def test_annotations_of_other_types_are_no_annotations() -> None:
    odd: list[Any] = [[], "x", {FORM: 7}, {FORM: "other"}, {FORM: ["index"]}, None]
    for notes in odd:
        stored = compact(image_manifest(annotations=notes))
        assert legacy_form(stored) is Form.OCI_INDEX
        assert show(stored, Form.OCI_INDEX) == compact(index())
