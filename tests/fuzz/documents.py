"""JSON as nobody should write it: odd members, numbers and depths, keys that are there twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from proxy.oci import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from tests.buildcache.manifests import PAIRS, docker_list, image_manifest, index
from tests.fuzz.mutation import Mutator

_BLOB: Final = Digest.of(b"blob")
_DESCRIPTOR: Final = {"mediaType": OCI_MANIFEST, "digest": str(_BLOB), "size": 4}
_DEPTHS: Final = (2, 31, 33, 200, 2000, 50_000)
_ANY: Final[tuple[Any, ...]] = (None, True, False, 0, "", "x", [], {}, [[]], {"a": {}}, _DESCRIPTOR)


class Raw(str):
    """JSON by its text, whatever that is."""

    __slots__ = ()


MANIFESTS: Final[tuple[dict[str, Any], ...]] = (
    *(index(), index(0), index(3, annotations={"a": "b"})),
    *(docker_list(), image_manifest(), image_manifest(0), image_manifest(1, subject=_DESCRIPTOR)),
    {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_DESCRIPTOR]},
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {**_DESCRIPTOR, "mediaType": "application/vnd.docker.container.image.v1+json"},
        "layers": [{**_DESCRIPTOR, "urls": ["https://example.com"], "annotations": {"a": "b"}}],
    },
    *(json.loads(path.read_bytes()) for path in sorted(Path(PAIRS).glob("*gzip*.json"))),
)


class Documents:
    """Draws the bytes of documents that began as one of `seeds`."""

    def __init__(self, mutator: Mutator, seeds: Sequence[Any] = MANIFESTS) -> None:
        self._mutator = mutator
        self._seeds = seeds

    def value(self) -> Any:
        """A document changed at some places, not written yet."""
        mutator = self._mutator
        value = mutator.one(self._seeds)
        while mutator.often(0.6):
            value = self._changed(value)
        return value

    def content(self) -> bytes:
        mutator = self._mutator
        text = self._written(self.value(), spaced=mutator.often(0.1))
        if mutator.often(0.25):
            return mutator.content([text.encode("utf-8", "surrogatepass")], unchanged=0)
        if mutator.often(0.03):
            return text.encode(mutator.one(("utf-16", "utf-8-sig", "utf-32")), "replace")
        return text.encode("utf-8", "surrogatepass")

    def _changed(self, value: Any) -> Any:
        """A copy with one node, at any depth, put otherwise."""
        mutator = self._mutator
        if isinstance(value, dict) and value and mutator.often(0.85):
            key = mutator.one(list(value))
            if mutator.often(0.15):
                return {name: each for name, each in value.items() if name != key}
            if mutator.often(0.15):
                return {**value, mutator.text((key,)): self._odd(value[key])}
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and mutator.often(0.85):
            at = mutator.below(len(value))
            if mutator.often(0.2):
                return value[:at] + value[at : at + 1] * mutator.one((0, 2, 3, 40)) + value[at:]
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self._odd(value)

    def _odd(self, value: Any) -> Any:
        mutator = self._mutator
        if isinstance(value, str) and mutator.often(0.5):
            return mutator.text((value,), unchanged=0)
        kind = mutator.below(10)
        if kind < 3:
            return Raw(mutator.number())
        if kind == 3:
            return self._deep(value)
        if kind == 4:
            return mutator.piece()
        if kind == 5:
            return mutator.one(self._seeds)
        return mutator.one(_ANY)

    def _deep(self, value: Any) -> Raw:
        # The deepest ones are long, and few will do.
        depth = self._mutator.one(_DEPTHS if self._mutator.often(0.1) else _DEPTHS[:3])
        opening, closing = self._mutator.one((("[", "]"), ('{"a":', "}")))
        return Raw(opening * depth + self._written(value, spaced=False) + closing * depth)

    def _written(self, value: Any, *, spaced: bool) -> str:
        mutator = self._mutator
        space = mutator.one(("", " ", "\n\t", "\r\n")) if spaced else ""
        if isinstance(value, Raw):
            return value
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=spaced)
        if isinstance(value, dict):
            members = [
                f"{space}{json.dumps(key, ensure_ascii=spaced)}:"
                + self._written(each, spaced=spaced)
                for key, each in value.items()
            ]
            if members and mutator.often(0.01):
                members.append(mutator.one(members))  # the key a second time
            return "{" + f",{space}".join(members) + "}"
        if isinstance(value, list):
            return "[" + ",".join(self._written(each, spaced=spaced) for each in value) + "]"
        return json.dumps(value)
