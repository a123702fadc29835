"""The three forms of a registry cache, and the layer media types of each (BUILDKIT.md).

Tables and names only; nothing here reads a manifest.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST

CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"


class Form(StrEnum):
    """What a cache manifest looks like; the first is the only one that every registry stores."""

    IMAGE_MANIFEST = "image-manifest"
    OCI_INDEX = "index"
    DOCKER_LIST = "docker-list"


class Want(StrEnum):
    """What a reader of a cache is to be given: as stored, the form that old clients read
    (`legacy_form` says which), or one form in particular, under the name of that `Form`."""

    STORED = "stored"
    LEGACY = "legacy"
    IMAGE_MANIFEST = "image-manifest"
    OCI_INDEX = "index"
    DOCKER_LIST = "docker-list"


_MEDIA_TYPES: Final = MappingProxyType(
    {
        Form.IMAGE_MANIFEST: OCI_MANIFEST,
        Form.OCI_INDEX: OCI_INDEX,
        Form.DOCKER_LIST: DOCKER_LIST,
    }
)

# What a cache manifest can come as; anything else need not even be looked into.
MEDIA_TYPES: Final = frozenset(_MEDIA_TYPES.values())

_OCI_LAYER_PREFIX: Final = "application/vnd.oci.image.layer."
_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

# As BuildKit converts them (util/compression), so that the inverse restores what it wrote.
_PAIRS: Final = (
    (_DOCKER_LAYER, _OCI_LAYER),
    (f"{_DOCKER_LAYER}.gzip", f"{_OCI_LAYER}+gzip"),
    (f"{_DOCKER_LAYER}.zstd", f"{_OCI_LAYER}+zstd"),
    (_DOCKER_FOREIGN, _OCI_FOREIGN),
    (f"{_DOCKER_FOREIGN}.gzip", f"{_OCI_FOREIGN}+gzip"),
)
# One way only: BuildKit knows no Docker name for foreign zstd and leaves the OCI one in its lists.
_FOREIGN_ZSTD: Final = (f"{_DOCKER_FOREIGN}.zstd", f"{_OCI_FOREIGN}+zstd")

TO_OCI: Final = MappingProxyType(dict((*_PAIRS, _FOREIGN_ZSTD)))
TO_DOCKER: Final = MappingProxyType({oci: docker for docker, oci in _PAIRS})


def media_type(form: Form) -> str:
    """The media type of a manifest of that form."""
    return _MEDIA_TYPES[form]


def find_form_of(name: object) -> Form | None:
    """The form that has this media type, if it is one of a cache's."""
    return next((form for form, known in _MEDIA_TYPES.items() if known == name), None)


def is_layer_type(name: str) -> bool:
    """Any OCI layer type counts (nydus among them), and Docker's known ones."""
    return name.startswith(_OCI_LAYER_PREFIX) or name in TO_OCI
