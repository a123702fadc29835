"""What is known of manifests: those that upstream once gave or took, what clients' digests stand
for, and what has become of tags.

Readers and writers of manifests share it; nothing here goes upstream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from cachetools import LRUCache, TTLCache

from proxy.buildcache import Alias
from proxy.cache import CacheError, RecordStore
from proxy.errors import Unavailable
from proxy.oci import Digest, Manifest, Reference, Tag
from proxy.services.proofs import Proofs
from proxy.services.registries import Target
from proxy.services.tags import Pointer, Tags

_KNOWN_TAGS: Final = 20_000
# For how long what upstream has just taken or given stands without asking again. ECR may deny for
# a moment what it has just taken (ECR.md §5).
_SEEN_SECONDS: Final = 60.0
# What was pushed is held in memory for so long, in seconds, and so many bytes: its record may find
# no room on disk, or be evicted before ECR gives what it has taken.
_PUSHED_SECONDS: Final = 300.0
_PUSHED_BYTES: Final = 32 * 1024 * 1024

_MANIFEST: Final = "manifest"
_ALIAS: Final = "alias"

_TagKey = tuple[str, str, Reference | None]  # None for all of a repository's tags


class KnownManifests:
    """Keeps manifests and aliases by repository and digest, and how often each tag was written.

    `clock` gives seconds that never go back.
    """

    def __init__(
        self, records: RecordStore, tags: Tags, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._tags = tags
        self._seen = Proofs(seconds=_SEEN_SECONDS, clock=clock)
        self._pushed: TTLCache[tuple[str, str, Digest], Manifest] = TTLCache(
            _PUSHED_BYTES, _PUSHED_SECONDS, timer=clock, getsizeof=lambda m: len(m.content)
        )
        # How many writes a tag has seen: a reader joins only a question that began after the last.
        self._writes: LRUCache[_TagKey, int] = LRUCache(_KNOWN_TAGS)
        self._writes_seen = 0

    async def find(self, target: Target, digest: Digest) -> Manifest | None:
        """A manifest that upstream once gave or took, byte for byte; aliases are none."""
        record = await self._records.find(_MANIFEST, *target.key, digest)
        if record is None:
            return self._pushed.get((*target.key, digest))
        media_type, _, content = record.partition(b"\n")
        return Manifest(content, media_type.decode(), digest)

    async def took(
        self, target: Target, manifest: Manifest, references: Iterable[Reference]
    ) -> None:
        """Upstream has just taken it, under those references."""
        if len(manifest.content) <= _PUSHED_BYTES:
            self._pushed[(*target.key, manifest.digest)] = manifest
        await self.keep(target, manifest)
        pointer = Pointer(manifest.digest, manifest.media_type, len(manifest.content))
        for reference in references:
            if isinstance(reference, Tag):
                self.wrote(target, reference)  # no older answer is taken for a newer one
                await self._tags.pushed(target, reference, pointer)

    async def keep(self, target: Target, manifest: Manifest) -> None:
        """Upstream has just given or taken it."""
        record = manifest.media_type.encode() + b"\n" + manifest.content
        await self._records.put(_MANIFEST, *target.key, manifest.digest, record)
        self._seen.add(target, manifest.digest)

    async def forget(self, target: Target, digest: Digest) -> None:
        """Upstream has it no more."""
        self._seen.drop(target, digest)
        self._pushed.pop((*target.key, digest), None)
        await self._records.remove(_MANIFEST, *target.key, digest)

    async def deleted(self, target: Target, reference: Reference) -> None:
        """Upstream was told to delete a tag, or a manifest that it stored under that digest."""
        if isinstance(reference, Tag):
            await self._tags.forget(target, reference)
        else:
            self._tags.deleted(target, reference)
            await self.forget(target, reference)

    # What upstream was just heard to have

    def see(self, target: Target, digest: Digest) -> None:
        self._seen.add(target, digest)

    def was_seen(self, target: Target, digest: Digest) -> bool:
        return self._seen.has(target, digest)

    # Aliases

    async def find_alias(self, target: Target, digest: Digest) -> Alias | None:
        """Raises `Unavailable` where it cannot be said whether there is one."""
        try:
            record = await self._records.find(_ALIAS, *target.key, digest)
        except CacheError as error:
            raise Unavailable(
                f"{target.repository}: what {digest} stands for cannot be read from the proxy's "
                f"disk ({error}); try again"
            ) from error
        if record is None:
            return None
        try:
            return Alias.load(record)
        except ValueError:
            return None  # another version of this program wrote it; a HEAD of the tag renews it

    async def put_alias(self, target: Target, digest: Digest, alias: Alias) -> None:
        """Durable on return; raises `Unavailable`."""
        try:
            await self._records.put(_ALIAS, *target.key, digest, alias.dump())
        except CacheError as error:
            # No reply may name a digest that could not be read back.
            raise Unavailable(
                f"{target.repository}: what {digest} stands for cannot be kept on the proxy's "
                f"disk ({error}); make room there, or enlarge the cache"
            ) from error

    async def remove_alias(self, target: Target, digest: Digest) -> None:
        await self._records.remove(_ALIAS, *target.key, digest)

    # Writes

    def wrote(self, target: Target, tag: Reference | None) -> None:
        """From here on no reader of the tag, or of any tag where it is None, joins a question that
        was asked before this write ended."""
        self._writes_seen += 1
        self._writes[(*target.key, tag)] = self._writes_seen

    def writes(self, target: Target, tag: Tag) -> int:
        """A number that is another one after each write of the tag."""
        own = self._writes.get((*target.key, tag), 0)
        return max(own, self._writes.get((*target.key, None), 0))
