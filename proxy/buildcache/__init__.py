"""BuildKit's registry cache in its three forms: bytes in, bytes out.

A cache that an old client pushes as an index of blobs is stored as the image manifest that a new
one would push, and shown again to whoever asks in the form and the exact bytes that it knows
(DESIGN.md settled 2). Never knows HTTP, a registry's ways, disks or asyncio.
"""

from __future__ import annotations

from proxy.buildcache.aliases import Alias
from proxy.buildcache.forms import MEDIA_TYPES, Form, Want, media_type
from proxy.buildcache.reading import Blobs, NotACache, find_blobs, find_form
from proxy.buildcache.rewriting import (
    Stored,
    TooLarge,
    TooManyLayers,
    Unstorable,
    legacy_form,
    show,
    to_stored,
)

__all__ = [
    "MEDIA_TYPES",
    "Alias",
    "Blobs",
    "Form",
    "NotACache",
    "Stored",
    "TooLarge",
    "TooManyLayers",
    "Unstorable",
    "Want",
    "find_blobs",
    "find_form",
    "legacy_form",
    "media_type",
    "show",
    "to_stored",
]
