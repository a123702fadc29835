"""What a manifest names: blobs and other manifests, whatever its type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from proxy.oci import Digest

# image-spec "Image Manifest" and "Image Index"; `blobs` is the artifact manifest's of its drafts.
_LISTS: Final = ("layers", "manifests", "blobs")


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
