"""What is a BuildKit cache manifest, and what it names.

The verdict leans to the safe side: a manifest is a cache only if its readers cannot disagree on it
and rewriting loses nothing that a registry acts on. Anything else is somebody else's, and is never
touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.buildcache.forms import (
    CACHE_CONFIG,
    Form,
    find_form_of,
    is_layer_type,
)
from proxy.buildcache.json_text import Value, read_document, read_elements
from proxy.oci import EMPTY_DESCRIPTOR, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest

# On the stored manifest: the form that the client pushed, where that is not the OCI index; and the
# client's bytes (see originals.py), where the form alone does not restore them.
FORM_ANNOTATION: Final = "io.github.ecr-cache-proxy.form"
ORIGINAL_ANNOTATION: Final = "io.github.ecr-cache-proxy.original"

# What a registry acts on (distribution-spec, "Listing Referrers"), so it stays on what is stored.
_KEPT: Final = ("artifactType", "subject")


class NotACache(ValueError):
    """A manifest that is no BuildKit cache; the message says why not."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's descriptor: its JSON text, and the media type in it."""

    text: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache manifest taken apart. Texts are JSON as it stands in the manifest.

    `padded`: the empty layer stands in for layers that the cache does not have (`layers` is
    empty). `pushed_as` and `original` are what the annotations say, unverified.
    """

    form: Form
    config: str
    layers: tuple[Layer, ...]
    padded: bool = False
    kept: tuple[tuple[str, str], ...] = ()
    pushed_as: Form | None = None
    original: str | None = None


@dataclass(frozen=True, slots=True)
class Blobs:
    """The blobs that a cache names and its registry has to have: foreign layers lie elsewhere."""

    config: Descriptor
    layers: tuple[Digest, ...]


def find_blobs(content: bytes, media_type: str | None = None) -> Blobs | None:
    """What a BuildKit cache manifest names, None for anything else. Never raises."""
    try:
        cache = read(content, media_type)
    except NotACache:
        return None
    layers = [json.loads(layer.text) for layer in cache.layers]
    here = [Descriptor.parse(layer).digest for layer in layers if not _is_elsewhere(layer)]
    return Blobs(Descriptor.parse(json.loads(cache.config)), tuple(here))


def find_form(content: bytes, media_type: str | None = None) -> Form | None:
    """The form of a BuildKit cache manifest, None for anything else. Never raises.

    `media_type` is what the manifest was sent under, bare, where that is known: it decides if the
    manifest does not name its own, and must agree if it does.
    """
    try:
        return read(content, media_type).form
    except NotACache:
        return None


def read(content: bytes, media_type: str | None = None) -> Cache:
    """Take a cache manifest apart; raises `NotACache`. `media_type` as for `find_form`."""
    try:
        document = read_document(content)
        form = _form(document, media_type)
        if form is Form.IMAGE_MANIFEST:
            return _read_image_manifest(document)
        return _read_index(document, form)
    except NotACache:
        raise
    except ValueError as error:
        raise NotACache(f"no manifest: {error}") from error


def _form(document: dict[str, Value], sent_as: str | None) -> Form:
    # The version's text, not its value: 2.0 and true are no 2 to a reader in Go.
    if "schemaVersion" not in document or document["schemaVersion"].text != "2":
        raise NotACache("no manifest of schemaVersion 2")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        # image-spec "Image Index" and CVE-2021-41190: such a document reads as either.
        raise NotACache("neither an index nor an image manifest: it has the fields of both")
    stated = document["mediaType"].value if "mediaType" in document else None
    # OCI's two types may be left out of the body; Docker's must be there.
    by_shape = OCI_INDEX if is_index else OCI_MANIFEST
    named = (sent_as or by_shape) if stated in (None, "") else stated
    if sent_as is not None and named != sent_as:
        raise NotACache(f"it names another media type than {sent_as[:160]}, which it is sent under")
    form = find_form_of(named)
    if form is None:
        raise NotACache("its media type is none that a cache has")
    if is_index != (form is not Form.IMAGE_MANIFEST):
        raise NotACache(f"its fields are not those of {named}")
    return form


def _read_index(document: dict[str, Value], form: Form) -> Cache:
    if any(name in document for name in _KEPT):
        raise NotACache("an index with a subject or an artifactType is no cache of BuildKit's")
    if not isinstance(document["manifests"].value, list):
        raise NotACache("its manifests are no list")
    configs: list[str] = []
    layers: list[Layer] = []
    for element in read_elements(document["manifests"].text):
        descriptor = Descriptor.parse(element.value)
        if descriptor.media_type == CACHE_CONFIG:
            configs.append(element.text)
        else:
            layers.append(_layer(descriptor, element.text))
    if len(configs) != 1:
        raise NotACache(f"no cache of BuildKit's: {len(configs)} cacheconfig descriptors, not one")
    return Cache(form, configs[0], tuple(layers))


def _read_image_manifest(document: dict[str, Value]) -> Cache:
    config = document.get("config")
    if config is None or Descriptor.parse(config.value).media_type != CACHE_CONFIG:
        raise NotACache("no cache of BuildKit's: its config is no cacheconfig")
    layers = _layers(document.get("layers"))
    padded = [descriptor for descriptor, _ in layers] == [EMPTY_DESCRIPTOR]
    annotations = document["annotations"].value if "annotations" in document else None
    named = annotations if isinstance(annotations, dict) else {}
    original = named.get(ORIGINAL_ANNOTATION)
    return Cache(
        form=Form.IMAGE_MANIFEST,
        config=config.text,
        layers=() if padded else tuple(_layer(*layer) for layer in layers),
        padded=padded,
        kept=tuple((name, document[name].text) for name in _KEPT if name in document),
        pushed_as=_pushed_as(named.get(FORM_ANNOTATION)),
        original=original if isinstance(original, str) else None,
    )


def _layers(value: Value | None) -> list[tuple[Descriptor, str]]:
    # BuildKit 0.12 writes null for a cache without layers (BUILDKIT.md, "Empty caches").
    if value is None or value.value is None:
        return []
    return [(Descriptor.parse(each.value), each.text) for each in read_elements(value.text)]


def _layer(descriptor: Descriptor, text: str) -> Layer:
    if not is_layer_type(descriptor.media_type):
        raise NotACache(f"no cache of BuildKit's: it names a {descriptor.media_type[:160]}")
    return Layer(text, descriptor.media_type)


def _is_elsewhere(layer: Mapping[str, Any]) -> bool:
    """Whether a registry may take the manifest without it (image-spec, "Non-Distributable Layers";
    image-spec, "Descriptor": `urls`)."""
    name = layer["mediaType"]
    return "nondistributable" in name or "foreign" in name or bool(layer.get("urls"))


def _pushed_as(name: Any) -> Form | None:
    return next((form for form in Form if form.value == name), None)
