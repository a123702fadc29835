"""Which form of a cache a client reads, by what it says of itself (BUILDKIT.md, "User-Agents").

A pure function over header values; what is stored, and how it is converted, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from proxy.buildcache import Want
from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST

Show: TypeAlias = Literal["auto", "stored", "index", "image-manifest"]

_FORCED: Final = MappingProxyType(
    {"stored": Want.STORED, "index": Want.LEGACY, "image-manifest": Want.IMAGE_MANIFEST}
)
_BY_TYPE: Final = MappingProxyType(
    {
        OCI_MANIFEST: Want.IMAGE_MANIFEST,
        OCI_INDEX: Want.OCI_INDEX,
        DOCKER_LIST: Want.DOCKER_LIST,
    }
)

# The first BuildKit that reads a cache in an image manifest; an older one would rebuild everything
# without a word.
_FIRST_READER: Final = (0, 12)
_VERSION: Final = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?![0-9])", re.ASCII)
_COMMENT: Final = re.compile(r"\([^()]*\)")  # RFC 9110 §5.6.5; of another program, at that
_ZERO_WEIGHT: Final = re.compile(r"0(\.0{0,3})?", re.ASCII)  # RFC 9110 §12.4.2


def choose(accept: Sequence[str], user_agent: str, *, peer: bool, show: Show = "auto") -> Want:
    """What a client is to be given that asks for a manifest by tag.

    `accept` are the values of its Accept headers. A `peer`, a proxy of this kind, converts for its
    own clients by its own settings, and gets what is stored whatever `show` forces here.
    """
    if peer:
        return Want.STORED
    if show != "auto":
        return _FORCED[show]
    accepted = set(_concrete_types(accept))
    if len(accepted) == 1:
        # One type alone is what a pusher asks by: it looks for what it is about to write.
        return _BY_TYPE.get(accepted.pop(), Want.STORED)
    return Want.LEGACY if _reads_index_only(user_agent) else Want.STORED


def asks_to_push(accept: Sequence[str]) -> bool:
    """Whether a HEAD comes from a client that looks for what it is about to write.

    It accepts the one type that it means (BUILDKIT.md, "Request sequences").
    """
    return len(set(_concrete_types(accept))) == 1


def _concrete_types(accept: Sequence[str]) -> Iterator[str]:
    """The types that are named in full and not refused (`q=0`), lower-case, without parameters."""
    for element in ",".join(accept).split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        if name and "*" not in name and not any(map(_refuses, parameters)):
            yield name


def _refuses(parameter: str) -> bool:
    key, _, value = parameter.partition("=")
    return key.strip() == "q" and _ZERO_WEIGHT.fullmatch(value.strip()) is not None


def _reads_index_only(user_agent: str) -> bool:
    """A BuildKit before 0.12, or one that does not say: every version reads the index."""
    for product in _COMMENT.sub(" ", user_agent).split():
        name, _, version = product.partition("/")
        if name == "buildkit":
            number = _VERSION.match(version)
            return number is None or (int(number[1]), int(number[2])) < _FIRST_READER
        if name == "containerd" and version.endswith("+unknown"):
            # BuildKit before 0.10 gives the name of the library in it. containerd itself, as it
            # is released, names its version.
            return True
    return False
