"""Manifests: what they name, and that those which are a cache come back byte for byte."""

from __future__ import annotations

from typing import Any, Final

from proxy.buildcache import (
    Alias,
    Form,
    NotACache,
    Unstorable,
    find_blobs,
    find_form,
    legacy_form,
    media_type,
    show,
    to_stored,
)
from proxy.buildcache.originals import pack, unpack
from proxy.oci import MANIFEST_TYPES, MAX_MANIFEST_BYTES, Digest
from proxy.services.references import find_references
from tests.fuzz.documents import MANIFESTS, Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

_ALIAS: Final = {"stored": str(Digest.of(b"manifest")), "form": "index"}
_ORIGINALS: Final = tuple(pack(content) for content in (b"", b"{}", b"a" * 5_000_000))
# A cache as stored, with what it was pushed as in its annotations: anybody can push such a thing.
_STORED: Final = {
    **MANIFESTS[4],
    "annotations": {
        "io.github.ecr-cache-proxy.form": "docker-list",
        "io.github.ecr-cache-proxy.original": pack(b'{"schemaVersion":2}'),
    },
}


def _draw(mutator: Mutator) -> tuple[bytes, str | None]:
    content = Documents(mutator, (*MANIFESTS, _STORED)).content()
    return content, mutator.one((None, *MANIFEST_TYPES))


def _check_references(drawn: tuple[bytes, str | None]) -> str:
    found = find_references(drawn[0])
    for digest in found:
        Digest.parse(digest)
    if len(set(found)) != len(found):
        raise Wrong("a reference twice")
    return "some" if found else "none"


def _check_cache(drawn: tuple[bytes, str | None]) -> str:
    content, sent_as = drawn
    form = find_form(content, sent_as)
    blobs = find_blobs(content, sent_as)
    if (form is None) != (blobs is None):
        raise Wrong("a cache that names nothing")
    try:
        stored = to_stored(content, media_type=sent_as)
    except Unstorable:
        return "unstorable"
    except NotACache:
        if form is not None:
            raise Wrong("a cache that is none") from None
        return "no cache"
    if show(stored.manifest.content, stored.form) != content:
        raise Wrong("what was pushed does not come back")
    if len(stored.manifest.content) > MAX_MANIFEST_BYTES or not stored.manifest.digest.matches(
        stored.manifest.content
    ):
        raise Wrong("what is stored is too large, or has another digest")
    legacy_form(stored.manifest.content)
    for wanted in Form:
        shown = show(stored.manifest.content, wanted)
        if find_form(shown, media_type(wanted)) is not wanted:
            raise Wrong(f"shown as {wanted}, it is something else")
    if find_form(stored.manifest.content) is not Form.IMAGE_MANIFEST:
        raise Wrong("what is stored is no image manifest")
    return stored.form


def _draw_annotated(mutator: Mutator) -> tuple[bytes, str | None]:
    """A stored cache whose annotations were tampered with."""
    original = mutator.text((*_ORIGINALS[:2], pack(Documents(mutator).content())))
    notes = {
        "io.github.ecr-cache-proxy.form": mutator.one(("index", "docker-list", "image-manifest")),
        "io.github.ecr-cache-proxy.original": original,
    }
    tampered: dict[str, Any] = {**MANIFESTS[4], "annotations": notes}
    return Documents(mutator, (tampered,)).content(), None


def _check_annotated(drawn: tuple[bytes, str | None]) -> str:
    before = find_blobs(drawn[0])
    for form in Form:
        try:
            shown = show(drawn[0], form)
        except NotACache:
            return "no cache"
        after = find_blobs(shown, media_type(form))
        # An annotation must not make other layers of those that the registry has.
        if before is not None and (after is None or set(after.layers) != set(before.layers)):
            raise Wrong(f"shown as {form}, it names other layers")
    return "cache"


def _draw_original(mutator: Mutator) -> str:
    return mutator.text(_ORIGINALS)


def _check_original(text: str) -> str:
    content = unpack(text)
    if content is None:
        return "none"
    if len(content) > MAX_MANIFEST_BYTES:
        raise Wrong("more than a manifest can have")
    return "original"


def _draw_alias(mutator: Mutator) -> bytes:
    return Documents(mutator, (_ALIAS,)).content()


def _check_alias(content: bytes) -> str:
    try:
        Alias.load(content)
    except ValueError:
        return "ValueError"
    return "alias"


def targets() -> tuple[Target, ...]:
    return (
        Target("references", _draw, _check_references, 0.7),
        Target("caches", _draw, _check_cache, 1.0),
        Target("caches, tampered with", _draw_annotated, _check_annotated, 0.4),
        Target("originals", _draw_original, _check_original, 0.1),
        Target("aliases", _draw_alias, _check_alias, 0.5),
    )
