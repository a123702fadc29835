"""From the form that a client pushed to the one that is stored, and back to what a client reads.

The stored image manifest says by itself what was pushed (DESIGN.md settled 2): nothing but its
bytes is needed to show the client's own again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.buildcache.forms import TO_DOCKER, TO_OCI, Form, media_type
from proxy.buildcache.json_text import replace_strings
from proxy.buildcache.originals import pack, unpack
from proxy.buildcache.reading import (
    FORM_ANNOTATION,
    ORIGINAL_ANNOTATION,
    Cache,
    Layer,
    NotACache,
    read,
)
from proxy.oci import EMPTY_DESCRIPTOR, MAX_MANIFEST_BYTES, OCI_MANIFEST, Digest, Manifest

MAX_LAYERS: Final = 500


class Unstorable(ValueError):
    """A cache that cannot be stored; the message says why, and what to do."""


class TooManyLayers(Unstorable):
    """More layers than a registry takes in one image manifest."""

    def __init__(self, layers: int, limit: int) -> None:
        super().__init__(
            f"the cache has {layers} layers, and the registry takes at most {limit} in one "
            "manifest. Export fewer: with mode=min in --cache-to, which leaves out the layers of "
            "intermediate stages; or with a cache tag of its own for each target and platform, "
            "built one at a time; or with RUN steps joined. type=s3 and type=inline put no such "
            "list in the registry"
        )
        self.layers = layers
        self.limit = limit


class TooLarge(Unstorable):
    """What would be stored, with the original in it, is larger than a manifest may be."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"the cache's manifest of {size} bytes is not written as BuildKit writes it, and is "
            f"too large to be stored along with what replaces it ({MAX_MANIFEST_BYTES} bytes in "
            "all). Export it with image-manifest=true (BuildKit 0.12 or newer), or fewer layers"
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A pushed cache as it is to be stored. `manifest.content` is the client's own if it can be
    stored as it is; `client` is the digest of the client's bytes, and `form` theirs.

    `needs_empty_blob`: the registry must have the OCI empty blob first, which no client pushed.
    """

    manifest: Manifest
    client: Digest
    form: Form
    needs_empty_blob: bool


def to_stored(
    content: bytes,
    *,
    media_type: str | None = None,
    max_layers: int | None = MAX_LAYERS,
    algorithm: str = "sha256",
) -> Stored:
    """What to store for the cache manifest `content`, which `show` makes the same bytes from.

    `media_type` as for `find_form`; `algorithm` is that of both digests. Raises `NotACache`,
    `TooManyLayers` or `TooLarge`.
    """
    cache = read(content, media_type)
    if max_layers is not None and len(cache.layers) > max_layers:
        raise TooManyLayers(len(cache.layers), max_layers)
    image = _find_image_manifest(cache, content)
    if image is None:
        raise TooLarge(len(content))
    return Stored(
        manifest=Manifest(image, OCI_MANIFEST, Digest.of(image, algorithm)),
        client=Digest.of(content, algorithm),
        form=cache.form,
        needs_empty_blob=image is not content and not cache.layers,
    )


def show(stored: bytes, form: Form) -> bytes:
    """A stored cache manifest in that form; raises `NotACache`.

    What a client pushed in that form comes back as its exact bytes. `stored` may also be an index
    or list, as a registry has it that takes them.
    """
    cache = read(stored)
    if form is not Form.IMAGE_MANIFEST:
        if cache.form is form:
            return stored
        return _find_original(cache, form) or _index(cache, form)
    if cache.form is form:
        return _find_original(cache, form) or stored
    return _find_image_manifest(cache, stored) or _image_manifest(cache, {})


def legacy_form(stored: bytes) -> Form:
    """The form that a client gets which reads no image manifest: the one that the cache was pushed
    in, else the OCI index, which all versions read. Raises `NotACache`."""
    cache = read(stored)
    form = cache.pushed_as if cache.form is Form.IMAGE_MANIFEST else cache.form
    return Form.OCI_INDEX if form in (None, Form.IMAGE_MANIFEST) else form


def _find_image_manifest(cache: Cache, content: bytes) -> bytes | None:
    """`content` itself if it is one and has layers, else the one to store in its place; None if
    there is none of at most 4 MiB that `content` can be had back from."""
    if cache.form is Form.IMAGE_MANIFEST and (cache.layers or cache.padded):
        return content
    for possible in _possible_annotations(cache, content):
        image = _image_manifest(cache, possible)
        if len(image) <= MAX_MANIFEST_BYTES and show(image, cache.form) == content:
            return image
    return None


def _possible_annotations(cache: Cache, content: bytes) -> Iterator[dict[str, str]]:
    """What may say how to restore `content`, the least first."""
    form = {FORM_ANNOTATION: cache.form.value}
    if cache.layers:
        # The OCI form goes unnamed: its image manifest has to be the one that BuildKit writes.
        yield {} if cache.form is Form.OCI_INDEX else form
    yield {**form, ORIGINAL_ANNOTATION: pack(content)}


def _image_manifest(cache: Cache, annotations: Mapping[str, str]) -> bytes:
    """Compact, in the order of Go's `ocispecs.Manifest`: what BuildKit itself would write."""
    layers = ",".join(_stored_layers(cache)) or _EMPTY_LAYER
    kept = dict(cache.kept)
    members = {
        "schemaVersion": "2",
        "mediaType": json.dumps(OCI_MANIFEST),
        "artifactType": kept.get("artifactType"),
        "config": cache.config,
        "layers": f"[{layers}]",
        "subject": kept.get("subject"),
        "annotations": _compact(annotations) if annotations else None,
    }
    return _object(members)


def _index(cache: Cache, form: Form) -> bytes:
    """Compact, as BuildKit writes it: the layers, then the config."""
    types = TO_DOCKER if form is Form.DOCKER_LIST else TO_OCI
    descriptors = [*(_retyped(layer, types) for layer in cache.layers), cache.config]
    members = {
        "schemaVersion": "2",
        "mediaType": json.dumps(media_type(form)),
        "manifests": f"[{','.join(descriptors)}]",
    }
    return _object(members)


def _find_original(cache: Cache, form: Form) -> bytes | None:
    """The carried original, if it is of that form and says what the manifest around it says.

    An annotation outlives edits of the manifest that it stands on, and anybody can write one: a
    client must never be shown layers that are not those of the cache that the registry has.
    """
    if cache.original is None or cache.pushed_as is not form:
        return None
    content = unpack(cache.original)
    if content is None:
        return None
    try:
        original = read(content, media_type(form))
    except NotACache:
        return None
    stored = (cache.config, [layer.text for layer in cache.layers])
    return content if (original.config, _stored_layers(original)) == stored else None


def _stored_layers(cache: Cache) -> list[str]:
    return [_retyped(layer, TO_OCI) for layer in cache.layers]


def _retyped(layer: Layer, types: Mapping[str, str]) -> str:
    """The descriptor's text, with nothing but the media type changed, and only if it must be."""
    other = types.get(layer.media_type)
    if other is None:
        return layer.text
    # Where the media type comes first and once, as BuildKit writes it, there is nothing to parse;
    # a key hidden behind an escape has a backslash.
    head = f'{{"mediaType":"{layer.media_type}"'
    rest = layer.text.removeprefix(head)
    if rest != layer.text and "mediaType" not in rest and "\\" not in rest:
        return f'{{"mediaType":"{other}"{rest}'
    return replace_strings(layer.text, "mediaType", types)


def _object(members: Mapping[str, str | None]) -> bytes:
    texts = [f'"{name}":{text}' for name, text in members.items() if text is not None]
    return f"{{{','.join(texts)}}}".encode()


def _compact(value: Mapping[str, str | int]) -> str:
    return json.dumps(value, separators=(",", ":"))


_EMPTY_LAYER: Final = _compact(
    {
        "mediaType": EMPTY_DESCRIPTOR.media_type,
        "digest": EMPTY_DESCRIPTOR.digest,
        "size": EMPTY_DESCRIPTOR.size,
    }
)
