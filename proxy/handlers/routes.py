"""The paths of the registry API, parsed once into a value that is used everywhere.

Source: distribution-spec, "Endpoints". Nothing here does I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.errors import (
    DigestInvalid,
    ManifestUnknown,
    NotFound,
    RegistryError,
    TagInvalid,
    Unsupported,
)
from proxy.oci import Digest, Reference, parse_reference


class Noun(StrEnum):
    PING = "ping"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


METHODS: Final = {
    Noun.PING: ("GET", "HEAD"),
    Noun.CATALOG: ("GET",),
    Noun.TAGS: ("GET",),
    Noun.MANIFEST: ("GET", "HEAD", "PUT", "DELETE"),
    Noun.BLOB: ("GET", "HEAD", "DELETE"),
    Noun.UPLOADS: ("POST",),
    Noun.UPLOAD: ("GET", "PATCH", "PUT", "DELETE"),
    Noun.REFERRERS: ("GET",),
}

# The name is greedy: it may itself contain components such as `manifests` or `blobs`.
_PATTERNS: Final = tuple(
    (noun, re.compile(pattern, re.DOTALL))
    for noun, pattern in (
        (Noun.PING, r"/v2/?"),
        (Noun.CATALOG, r"/v2/_catalog"),
        (Noun.TAGS, r"/v2/(?P<name>.+)/tags/list"),
        (Noun.UPLOADS, r"/v2/(?P<name>.+)/blobs/uploads/?"),
        (Noun.UPLOAD, r"/v2/(?P<name>.+)/blobs/uploads/(?P<rest>[^/]+)"),
        (Noun.BLOB, r"/v2/(?P<name>.+)/blobs/(?P<rest>[^/]+)"),
        (Noun.MANIFEST, r"/v2/(?P<name>.+)/manifests/(?P<rest>[^/]+)"),
        (Noun.REFERRERS, r"/v2/(?P<name>.+)/referrers/(?P<rest>[^/]+)"),
    )
)


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is about.

    `name` is the repository as the client wrote it, a registry's host before it or not: it is
    checked where it is resolved.
    """

    noun: Noun
    name: str = ""
    reference: Reference | None = None  # of a manifest
    digest: Digest | None = None  # of a blob or of the subject of referrers
    token: str = ""  # of an upload


def parse(method: str, path: str) -> Route:
    """Parse a decoded path; raises the `RegistryError` that the spec has for what is wrong."""
    for noun, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if method not in METHODS[noun]:
            allowed = ", ".join(METHODS[noun])
            raise Unsupported(
                f"{method} is not supported here; supported: {allowed}",
                headers={"Allow": allowed},
            )
        groups = match.groupdict()
        return _route(method, noun, groups.get("name", ""), groups.get("rest", ""))
    raise NotFound(
        f"{path[:200]!r} is no path of the registry API, which begins with /v2/ "
        "(is a repository name missing?)"
    )


def _route(method: str, noun: Noun, name: str, rest: str) -> Route:
    match noun:
        case Noun.MANIFEST:
            return Route(noun, name, reference=_reference(method, rest))
        case Noun.BLOB | Noun.REFERRERS:
            return Route(noun, name, digest=parse_digest(rest))
        case Noun.UPLOAD:
            return Route(noun, name, token=rest)
        case _:
            return Route(noun, name)


def parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise DigestInvalid(str(error)) from error


def _reference(method: str, text: str) -> Reference:
    try:
        return parse_reference(text)
    except ValueError as error:
        raise _bad_reference(method, text, str(error)) from error


def _bad_reference(method: str, text: str, reason: str) -> RegistryError:
    if ":" in text:
        return DigestInvalid(reason)
    # What cannot be a tag cannot exist: a reader hears that it is not there (the spec has no code
    # of its own for it); whoever writes hears what is wrong with it.
    return TagInvalid(reason) if method == "PUT" else ManifestUnknown(reason)
