"""Cache manifests made up for tests: as BuildKit writes them, and as nobody does."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Digest

CONFIG = "application/vnd.buildkit.cacheconfig.v0"
# How long an example takes says more of what else the machine does than of the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PAIRS = Path(__file__).parent.parent / "vectors" / "pairs"

OCI_LAYERS = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
]
DOCKER_LAYERS = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
]
GZIP = OCI_LAYERS[1]
DOCKER_GZIP = DOCKER_LAYERS[1]


def compact(value: Any) -> bytes:
    """JSON as Go's encoder writes it: compact, and not escaped but for HTML's three."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


def descriptor(media_type: str, name: str = "", **more: Any) -> dict[str, Any]:
    """A descriptor of content that is told from others by `name`."""
    digest = Digest.of(f"{media_type} {name}".encode())
    return {"mediaType": media_type, "digest": digest, "size": len(name), **more}


def layers(count: int, media_type: str = GZIP) -> list[dict[str, Any]]:
    return [descriptor(media_type, str(number)) for number in range(count)]


def listing(media_type: str, members: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """An index or list of `members` and a config, in that order."""
    manifests = [*members, descriptor(CONFIG, "config")]
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests, **more}


def index(count: int = 2, **more: Any) -> dict[str, Any]:
    return listing(OCI_INDEX, layers(count), **more)


def docker_list(count: int = 2, **more: Any) -> dict[str, Any]:
    return listing(DOCKER_LIST, layers(count, DOCKER_GZIP), **more)


def image_manifest(count: int = 2, **more: Any) -> dict[str, Any]:
    config = descriptor(CONFIG, "config")
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers(count),
        **more,
    }


# What BuildKit may write: any of its layer types in either family, Go's order of members.


def _descriptors(media_types: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    annotations = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), min_size=1)
    return st.builds(
        lambda media_type, name, size, notes: {
            **descriptor(media_type, name),
            "size": size,
            **({"annotations": dict(sorted(notes.items()))} if notes else {}),
        },
        st.sampled_from(media_types),
        st.text(max_size=3),
        st.integers(0, 2**63 - 1),
        st.none() | annotations,
    )


def buildkit_lists(media_type: str, *, min_layers: int = 1) -> st.SearchStrategy[bytes]:
    """Compact indexes or lists with layers of the family that BuildKit puts into that type."""
    types = OCI_LAYERS if media_type == OCI_INDEX else DOCKER_LAYERS
    members = st.lists(_descriptors(types), min_size=min_layers, max_size=6)
    return members.map(lambda found: compact(listing(media_type, found)))


def buildkit_image_manifests() -> st.SearchStrategy[bytes]:
    members = st.lists(_descriptors(OCI_LAYERS), min_size=1, max_size=6)
    return members.map(lambda found: compact(image_manifest(0, layers=found)))


# What nobody writes, and what is a cache all the same.

_NUMBERS = st.sampled_from(["0", "-0", "1.50", "1e400", "-2E-3", "9" * 60, "10000000000000000"])


class _Number(str):
    """A number by its text: what Python would write of it may be another text."""


_JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=6) | _NUMBERS.map(_Number),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
_EXTRA = st.dictionaries(st.text(min_size=1, max_size=4).map("x-".__add__), _JSON, max_size=2)


@st.composite
def odd_caches(draw: st.DrawFn) -> bytes:
    """Caches of all forms in any whitespace, order and escaping, with members of any kind more."""
    types = (
        OCI_LAYERS + DOCKER_LAYERS + ["application/vnd.docker.image.rootfs.foreign.diff.tar.zstd"]
    )
    members = draw(st.lists(st.tuples(_descriptors(types), _EXTRA), max_size=4))
    found: list[dict[str, Any]] = [{**known, **more} for known, more in members]
    config = {**descriptor(CONFIG), **draw(_EXTRA)}
    media_type = draw(st.sampled_from([OCI_INDEX, DOCKER_LIST, OCI_MANIFEST]))
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type, **draw(_EXTRA)}
    if media_type != DOCKER_LIST and draw(st.booleans()):
        del document["mediaType"]
    if media_type == OCI_MANIFEST:
        document |= {"config": config, "layers": found or draw(st.sampled_from([None, []]))}
    else:
        found.insert(draw(st.integers(0, len(found))), config)
        document["manifests"] = found
    if draw(st.booleans()):
        document["annotations"] = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
    return _written(document, random.Random(draw(st.integers()))).encode()


def _written(value: Any, chance: random.Random) -> str:
    def space() -> str:
        return chance.choice(["", "", "", " ", "\n\t", "\r\n  "])

    def string(text: str) -> str:
        return json.dumps(text, ensure_ascii=chance.random() < 0.3)

    def write(value: Any) -> str:
        if isinstance(value, dict):
            members = list(value.items())
            chance.shuffle(members)
            inner = ",".join(
                f"{space()}{string(key)}{space()}:{space()}{write(each)}{space()}"
                for key, each in members
            )
            return f"{{{inner or space()}}}"
        if isinstance(value, list):
            inner = ",".join(f"{space()}{write(each)}{space()}" for each in value)
            return f"[{inner or space()}]"
        if isinstance(value, _Number):
            return value
        return string(value) if isinstance(value, str) else json.dumps(value)

    return f"{space()}{write(value)}{space()}"
