"""What a manifest names: blobs and other manifests, whatever its type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest, Manifest

# image-spec "Image Manifest" and "Image Index"; `blobs` is the artifact manifest's of its drafts.
_LISTS: Final = ("layers", "manifests", "blobs")
_IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})


def find_references(content: bytes) -> tuple[Digest, ...]:
    """The digests of all that a manifest needs to be there, each once; its subject is none.

    Whatever is no manifest names nothing: it is for upstream to refuse.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(document, dict):
        return ()
    return tuple(dict.fromkeys(_digests(document)))


def find_checked(manifest: Manifest) -> tuple[Digest, ...]:
    """Those of which ECR sees that its repository has them, before it takes the manifest (ECR.md
    §4): an image's config and layers, or an index's manifests.

    A manifest is its pusher's: it may name anything where no registry looks, in a list of another
    kind or as a layer that lies elsewhere, and what it can be read as in two ways is checked in
    one. Whatever is not surely checked is left out.
    """
    try:
        document = json.loads(manifest.content, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(document, dict) or sum(name in document for name in _LISTS) != 1:
        return ()
    if document.get("mediaType", manifest.media_type) != manifest.media_type:
        return ()
    if manifest.media_type in _IMAGES:
        named = {"config": document.get("config"), "layers": _here(document.get("layers"))}
    elif manifest.media_type in _INDEXES and "config" not in document:
        # As a client is shown it that reads no other cache, an index names layers.
        named = {"manifests": _here(document.get("manifests"))}
    else:
        return ()
    return tuple(dict.fromkeys(_digests(named)))


def _unambiguous(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Raises `ValueError` for a key that is there twice; some readers do not mind its case."""
    if len({name.lower() for name, _ in members}) != len(members):
        raise ValueError("a key is there twice")
    return dict(members)


def _here(entries: Any) -> list[Any]:
    return [e for e in entries if not _is_elsewhere(e)] if isinstance(entries, list) else []


def _is_elsewhere(entry: Any) -> bool:
    """Whether a registry may take an image without it (image-spec, "Non-Distributable Layers")."""
    if not isinstance(entry, dict) or not isinstance(entry.get("mediaType"), str):
        return True
    name = entry["mediaType"].lower()
    return "nondistributable" in name or "foreign" in name or bool(entry.get("urls"))


def _digests(document: dict[str, Any]) -> Iterator[Digest]:
    lists = [document.get(name) for name in _LISTS]
    entries = [entry for each in lists if isinstance(each, list) for entry in each]
    for entry in (document.get("config"), *entries):
        text = entry.get("digest") if isinstance(entry, dict) else None
        if isinstance(text, str):
            try:
                yield Digest.parse(text)
            except ValueError:
                continue
