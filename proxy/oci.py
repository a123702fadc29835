"""The words of the OCI specifications as types: digests, names, references, descriptors.

Strings from outside become these types at the edge, by `parse`, and are trusted from there on.
Nothing here does I/O, and nothing here knows HTTP or AWS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from hashlib import _Hash

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"

# The four forms that a registry of today stores; what upstream is asked for, always (ECR.md §3).
MANIFEST_TYPES: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)

# RFC 6838 §4.2, with room for parameters that somebody may have left on.
MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+/-]{1,255}(?:;[ -~]{0,255})?", re.ASCII)

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024  # distribution-spec "Pushing Manifests"; ECR's too

# distribution-spec, "Pulling manifests": <name> and <reference>. The length is ECR's (§5).
_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII
)
_NAME_MAX: Final = 256
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
# image-spec, "Digests": the registered algorithms and their encodings.
_DIGEST = re.compile(r"(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})", re.ASCII)


class Digest(str):
    """A digest of a registered algorithm, `sha256:<64 hex>` or `sha512:<128 hex>`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raise `ValueError` with a sentence fit for a client if `text` is no digest."""
        if _DIGEST.fullmatch(text) is None:
            raise ValueError(
                f"{text[:160]!r} is no digest: expected sha256:<64 hex digits> "
                "or sha512:<128 hex digits>, in lower case"
            )
        return cls(text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        return cls(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")

    @classmethod
    def of_hash(cls, hasher: _Hash) -> Digest:
        """The digest that a running `hashlib` object stands at."""
        return cls(f"{hasher.name}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self[: self.index(":")]

    @property
    def hex(self) -> str:
        return self[self.index(":") + 1 :]

    def hasher(self) -> _Hash:
        """A fresh `hashlib` object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, content: bytes) -> bool:
        return Digest.of(content, self.algorithm) == self


class RepositoryName(str):
    """A repository's name: the spec's grammar, 256 characters at most."""

    __slots__ = ()
    MAX: Final = _NAME_MAX

    @classmethod
    def parse(cls, text: str) -> RepositoryName:
        """Raise `ValueError` with a sentence fit for a client if `text` is no repository name."""
        if len(text) > _NAME_MAX:
            raise ValueError(
                f"repository name of {len(text)} characters: at most {_NAME_MAX} are allowed"
            )
        if _NAME.fullmatch(text) is None:
            raise ValueError(
                f"{text!r} is no repository name: lower-case letters and digits, separated by "
                "'.', '_', '__' or dashes, in components separated by '/'"
            )
        return cls(text)


class Tag(str):
    """A tag: 128 characters at most, by the spec's grammar."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Raise `ValueError` with a sentence fit for a client if `text` is no tag."""
        if _TAG.fullmatch(text) is None:
            raise ValueError(
                f"{text[:160]!r} is no tag: letters, digits, '_', '.' and '-', "
                "not beginning with '.' or '-', 128 characters at most"
            )
        return cls(text)


Reference: TypeAlias = Tag | Digest


def parse_reference(text: str) -> Reference:
    """A digest if there is a colon in it, else a tag; raises `ValueError` like their `parse`."""
    return Digest.parse(text) if ":" in text else Tag.parse(text)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of one piece of content (image-spec, "Content Descriptors")."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> Descriptor:
        """Read a decoded JSON object; raises `ValueError` naming what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError("a descriptor is no JSON object")
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise ValueError("a descriptor has no mediaType")
        if not isinstance(digest, str):
            raise ValueError(f"a descriptor of type {media_type} has no digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"the descriptor of {digest[:160]} has no valid size")
        annotations = value.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise ValueError(f"the annotations of {digest[:160]} are no JSON object")
        return cls(media_type, Digest.parse(digest), size, annotations)


EMPTY_JSON: Final = b"{}"  # image-spec, "Guidance for an Empty Descriptor"
EMPTY_DESCRIPTOR: Final = Descriptor(OCI_EMPTY, Digest.of(EMPTY_JSON), len(EMPTY_JSON))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's exact bytes with the media type they were given under."""

    content: bytes
    media_type: str
    digest: Digest
