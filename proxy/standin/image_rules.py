"""What ECR demands of a manifest before it stores it: bytes in, facts or a refusal out.

ECR.md §4 "Schema rejections" and "Accepted". Whether the blobs and children named here exist is
for `manifest_api` to ask. Pure: no state, no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from proxy.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
)
from proxy.standin.refusals import Refusal, parameter

MAX_LAYERS: Final = 500
IMAGE_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_LIST)

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs."
_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
# What §3's conversion by tag makes of the types of a schema 2 manifest, and back.
_TO_OCI: Final = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: _OCI_CONFIG,
    f"{_DOCKER_LAYER}diff.tar": _OCI_LAYER,
    f"{_DOCKER_LAYER}diff.tar.gzip": f"{_OCI_LAYER}+gzip",
    f"{_DOCKER_LAYER}diff.tar.zstd": f"{_OCI_LAYER}+zstd",
}
_TO_DOCKER: Final = {oci: docker for docker, oci in _TO_OCI.items()}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a manifest needs and says. `blobs` are its config and layers, in order, without the
    foreign layers that live elsewhere; `children` an index's manifests."""

    blobs: tuple[Digest, ...] = ()
    children: tuple[Digest, ...] = ()
    subject: Digest | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    size: int = 0  # bytes of all blobs


def read_image(content: bytes, media_type: str, *, docker_layers_in_oci: bool = True) -> ImageFacts:
    """Check a manifest's shape; raises ECR's refusal. `media_type` is the request's, bare."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise _refused(f"Member must have length less than or equal to {MAX_MANIFEST_BYTES}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _syntax() from error
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise _syntax()
    stated = document.get("mediaType", media_type)
    if media_type not in IMAGE_TYPES + INDEX_TYPES or stated != media_type:
        raise _refused("Manifest media type is not supported")
    if any(";" in text for text in _media_types(document)):
        raise _syntax()
    subject = document.get("subject")
    if subject is not None and (not isinstance(subject, dict) or "platform" in subject):
        raise _syntax()
    facts = _read_index(document) if media_type in INDEX_TYPES else _read_image(document)
    if not docker_layers_in_oci and media_type == OCI_MANIFEST:
        _refuse_docker_layers(document)
    return facts


def convert(content: bytes, media_type: str, wanted: list[str]) -> tuple[bytes, str] | None:
    """A stored manifest as one of the `wanted` types, if ECR converts to it (§3 "Accept")."""
    for types, source, target in (
        (_TO_OCI, DOCKER_MANIFEST, OCI_MANIFEST),
        (_TO_DOCKER, OCI_MANIFEST, DOCKER_MANIFEST),
    ):
        if media_type == source and target in wanted:
            document = json.loads(content)
            document["mediaType"] = target
            for descriptor in [document["config"], *document["layers"]]:
                descriptor["mediaType"] = types.get(
                    descriptor["mediaType"], descriptor["mediaType"]
                )
            return json.dumps(document, indent=3).encode(), target
    return None


def _read_image(document: dict[str, Any]) -> ImageFacts:
    layers = document.get("layers")
    if not layers:
        raise _refused("Image has to have at least 1 layer")
    if not isinstance(layers, list):
        raise _syntax()
    if len(layers) > MAX_LAYERS:
        raise _refused("Limit on number of layers per image exceeded")
    config = _descriptor(document.get("config"))
    stored = [_descriptor(layer) for layer in layers if not _is_foreign(layer)]
    return ImageFacts(
        blobs=tuple(dict.fromkeys(each.digest for each in (config, *stored))),
        subject=_subject(document),
        artifact_type=document.get("artifactType") or config.media_type,
        annotations=document.get("annotations"),
        size=config.size + sum(layer.size for layer in stored),
    )


def _read_index(document: dict[str, Any]) -> ImageFacts:
    children = document.get("manifests")
    if not isinstance(children, list):
        raise _syntax()
    for child in children:
        platform = child.get("platform") if isinstance(child, dict) else None
        if isinstance(platform, dict) and "os.features" in platform:
            raise _syntax()
    return ImageFacts(
        children=tuple(dict.fromkeys(_descriptor(child).digest for child in children)),
        subject=_subject(document),
        artifact_type=document.get("artifactType"),
        annotations=document.get("annotations"),
    )


def _descriptor(value: Any) -> Descriptor:
    try:
        return Descriptor.parse(value)
    except ValueError as error:
        raise _syntax() from error


def _subject(document: dict[str, Any]) -> Digest | None:
    subject = document.get("subject")
    return None if subject is None else _descriptor(subject).digest


def _is_foreign(layer: Any) -> bool:
    # A non-distributable layer lives where its `urls` say: no registry asks for its bytes.
    media_type = layer.get("mediaType", "") if isinstance(layer, dict) else ""
    return isinstance(media_type, str) and (
        "nondistributable" in media_type or ".foreign." in media_type
    )


def _media_types(document: dict[str, Any]) -> Iterator[str]:
    yield from (v for k, v in document.items() if k == "artifactType" and isinstance(v, str))
    lists = [document.get("layers"), document.get("manifests")]
    descriptors = [document.get("config"), document.get("subject")]
    descriptors += [each for members in lists if isinstance(members, list) for each in members]
    for descriptor in descriptors:
        if isinstance(descriptor, dict):
            for key in ("mediaType", "artifactType"):
                if isinstance(descriptor.get(key), str):
                    yield descriptor[key]


def _refuse_docker_layers(document: dict[str, Any]) -> None:
    for layer in document["layers"]:
        if layer["mediaType"].startswith(_DOCKER_LAYER):
            raise _refused("Layer media type is not supported")


def _refused(constraint: str) -> Refusal:
    return parameter("ImageManifest", constraint)


def _syntax() -> Refusal:
    return _refused("Invalid JSON syntax")
