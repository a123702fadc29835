"""Which manifests are BuildKit caches, and what those name: read once for each digest.

Nothing here goes upstream, or to the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy import buildcache
from proxy.buildcache import Form
from proxy.oci import Descriptor, Digest, Manifest

# How many manifests are remembered, and how many blobs that they name: some 15 MB.
_KNOWN: Final = 20_000
_KNOWN_BLOBS: Final = 100_000


@dataclass(frozen=True, slots=True)
class CacheContents:
    """A cache manifest's blobs, and the form that a client gets of it which reads indexes only.

    `blobs` are the config's and the layers' digests, in that order and without repetition, as far
    as the registry has to have them.
    """

    legacy: Form
    config: Descriptor
    blobs: tuple[Digest, ...]


class Recognized:
    """Gives what is in a cache manifest, None for a manifest of any other kind."""

    def __init__(self) -> None:
        self._contents: LRUCache[Digest, CacheContents] = LRUCache(
            _KNOWN_BLOBS, getsizeof=lambda contents: len(contents.blobs)
        )
        self._others: LRUCache[Digest, None] = LRUCache(_KNOWN)

    def is_other(self, digest: Digest) -> bool:
        """Whether it was read, and is no cache."""
        return digest in self._others

    def read(self, manifest: Manifest) -> CacheContents | None:
        if manifest.media_type not in buildcache.MEDIA_TYPES:
            return None
        digest = manifest.digest
        if digest in self._others:
            self._others[digest] = None
            return None
        contents = self._contents.get(digest)
        if contents is None:
            contents = _read(manifest.content)
            if contents is None:
                self._others[digest] = None
            elif len(contents.blobs) <= _KNOWN_BLOBS:
                self._contents[digest] = contents
        return contents


def _read(content: bytes) -> CacheContents | None:
    named = buildcache.find_blobs(content)
    if named is None:
        return None
    blobs = tuple(dict.fromkeys((named.config.digest, *named.layers)))
    return CacheContents(buildcache.legacy_form(content), named.config, blobs)
