"""From the form that a client pushed to the one that is stored, and back to what a client reads.

The stored image manifest says by itself what was pushed (DESIGN.md settled 2): nothing but its
bytes is needed to show the client's own again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    image = _to_image_manifest(cache, content)
    is_rewritten = image is not content
    if is_rewritten and (len(image) > MAX_MANIFEST_BYTES or show(image, cache.form) != content):
        raise TooLarge(len(content))
    return Stored(
        manifest=Manifest(image, OCI_MANIFEST, Digest.of(image, algorithm)),
        client=Digest.of(content, algorithm),
        form=cache.form,
        needs_empty_blob=is_rewritten and not cache.layers,
    )


def show(stored: bytes, form: Form) -> bytes:
    """A stored cache manifest in that form; raises `NotACache`.

    What a client pushed in that form comes back as its exact bytes. `stored` may also be an index
    or list, as a registry has it that takes them.
    """
    cache = read(stored)
    if cache.form is not Form.IMAGE_MANIFEST:
        if cache.form is form:
            return stored
        stored = _to_image_manifest(cache, stored)
        if form is Form.IMAGE_MANIFEST:
            return stored
        cache = read(stored)
    original = _find_original(cache, form)
    if original is not None:
        return original
    return stored if form is Form.IMAGE_MANIFEST else _index(cache, form)


def legacy_form(stored: bytes) -> Form:
    """The form that a client gets which reads no image manifest: the one that the cache was pushed
    in, else the OCI index, which all versions read. Raises `NotACache`."""
    cache = read(stored)
    form = cache.pushed_as if cache.form is Form.IMAGE_MANIFEST else cache.form
    return Form.OCI_INDEX if form in (None, Form.IMAGE_MANIFEST) else form


def _to_image_manifest(cache: Cache, content: bytes) -> bytes:
    """`content` itself if it is one and has layers, else the one to store in its place."""
    if cache.form is Form.IMAGE_MANIFEST and (cache.layers or cache.padded):
        return content
    annotations: dict[str, str] = {}
    if cache.form is not Form.OCI_INDEX:
        annotations[FORM_ANNOTATION] = cache.form.value
    if cache.layers:
        image = _image_manifest(cache, annotations)
        if _index(read(image), cache.form) == content:
            return image
    carried = {FORM_ANNOTATION: cache.form.value, ORIGINAL_ANNOTATION: pack(content)}
    return _image_manifest(cache, carried)


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
    convert = TO_DOCKER if form is Form.DOCKER_LIST else {}
    descriptors = [*(_retyped(layer, convert) for layer in cache.layers), cache.config]
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
    if layer.media_type not in types:
        return layer.text
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
