"""Caches that BuildKit exports and will not import: it says so to whoever reads, and too late."""

from __future__ import annotations

import logging
from typing import Final

from cachetools import LRUCache

from proxy.oci import Digest, Manifest
from proxy.services.recognized import CacheContents
from proxy.services.registries import Target

_log = logging.getLogger(__name__)

# BUILDKIT.md, "Request sequences": of the manifest and of the config each.
_IMPORT_BYTES: Final = 1024 * 1024
_TOLD: Final = 10_000


class ImportLimit:
    """Warns of caches that are too large to be imported; in the log once for each digest."""

    def __init__(self) -> None:
        self._told: LRUCache[Digest, None] = LRUCache(_TOLD)

    def check(self, target: Target, manifest: Manifest, contents: CacheContents) -> tuple[str, ...]:
        """What is to be said to whoever pushed it; nothing for a cache that can be imported."""
        parts = {"manifest": len(manifest.content), "config": contents.config.size}
        large = [f"a {name} of {size}" for name, size in parts.items() if size > _IMPORT_BYTES]
        if not large:
            return ()
        warning = (
            f"BuildKit will not import the cache {manifest.digest} in {target.repository}: it has "
            f"{' and '.join(large)} bytes, and {_IMPORT_BYTES} are read. Export with mode=min, or "
            "fewer steps, or split the cache into several refs"
        )
        if manifest.digest not in self._told:
            self._told[manifest.digest] = None
            _log.warning("%s", warning)
        return (warning,)
