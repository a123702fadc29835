"""Manifests for readers, each shown in the form that the client understands.

By digest a client gets exactly that digest's bytes; by tag, what upstream has now, converted for
readers of a BuildKit cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy import buildcache
from proxy.buildcache import Alias, Form, Want
from proxy.errors import ManifestUnknown, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, Manifest, Reference, Tag
from proxy.services.known import KnownManifests
from proxy.services.recognized import Recognized
from proxy.services.registries import Target
from proxy.singleflight import SingleFlight

_SHOWN_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest without its bytes; `size` is in bytes, None if upstream does not say."""

    digest: Digest
    media_type: str
    size: int | None


class Manifests:
    """Reads manifests under a repository."""

    def __init__(self, known: KnownManifests, recognized: Recognized, events: Events) -> None:
        self._known = known
        self._recognized = recognized
        self._events = events
        self._heads: SingleFlight[tuple[str, str, Tag, int], Head] = SingleFlight()
        self._questions: SingleFlight[tuple[str, str, Digest], None] = SingleFlight()
        self._fetches: SingleFlight[tuple[str, str, Digest], Manifest] = SingleFlight()
        self._shown: LRUCache[tuple[Digest, Form], bytes] = LRUCache(_SHOWN_BYTES, getsizeof=len)

    async def close(self) -> None:
        await self._heads.close()
        await self._questions.close()
        await self._fetches.close()

    async def head(self, target: Target, reference: Reference, want: Want) -> Head:
        """Digest, media type and size of what `get` would give; raises `ManifestUnknown`."""
        if isinstance(reference, Digest):
            known = await self._find(target, reference)
            if known is not None:
                await self._confirm(target, reference)
                return _head_of(known)
            found = await target.registry.head_manifest(target.repository, reference)
            return Head(reference, found.media_type, found.size)
        head = await self._revalidate(target, reference)
        if not await self._may_differ(target, head.media_type, want):
            return head
        return _head_of(await self._show(target, await self._current(target, head), want))

    async def get(self, target: Target, reference: Reference, want: Want) -> Manifest:
        """The manifest for a client that wants it so; raises `ManifestUnknown`."""
        if isinstance(reference, Digest):
            known = await self._find(target, reference)
            return known or await self._fetch(target, reference)
        head = await self._revalidate(target, reference)
        manifest = await self._current(target, head)
        if not await self._may_differ(target, manifest.media_type, want):
            return manifest
        return await self._show(target, manifest, want)

    # Reading

    async def _revalidate(self, target: Target, tag: Tag) -> Head:
        """What the tag points at now, asked upstream; concurrent askers share the question."""

        async def ask() -> Head:
            head = await target.registry.head_manifest(target.repository, tag)
            if head.digest is None or head.size is None:
                # An upstream that does not name the digest: it is computed from the bytes.
                manifest = await target.registry.get_manifest(target.repository, tag)
                await self._known.keep(target, manifest)
                return _head_of(manifest)
            return Head(head.digest, head.media_type, head.size)

        return await self._heads.do((*target.key, tag, self._known.writes(target, tag)), ask)

    async def _confirm(self, target: Target, digest: Digest) -> None:
        """Raise `ManifestUnknown` if upstream has a known manifest no longer.

        Who asks by HEAD may leave out a push because of the answer, and what names the manifest
        would be refused then. Trouble upstream is no proof of anything.
        """
        alias = await self._known.find_alias(target, digest)
        stored = alias.stored if alias is not None else digest
        if self._known.was_seen(target, stored):
            return

        async def ask() -> None:
            await target.registry.head_manifest(target.repository, stored)
            self._known.see(target, stored)

        try:
            await self._questions.do((*target.key, stored), ask)
        except ManifestUnknown:
            await self._known.forget(target, stored)
            raise
        except RegistryError as error:
            if error.wire_status < 500 and error.wire_status != 429:
                raise

    async def _current(self, target: Target, head: Head) -> Manifest:
        """The bytes of what a HEAD of a tag has just named."""
        return await self._find(target, head.digest) or await self._fetch(target, head.digest)

    async def _find(self, target: Target, digest: Digest) -> Manifest | None:
        """Known here for good: a manifest that upstream once gave, or an alias of one."""
        known = await self._known.find(target, digest)
        if known is not None:
            return known
        alias = await self._known.find_alias(target, digest)
        if alias is None:
            return None
        stored = await self._find(target, alias.stored) or await self._fetch(target, alias.stored)
        content = self._convert(stored, alias.form)
        if not digest.matches(content):
            # Only a record that somebody tampered with, or a conversion of another version of this
            # program, leads here: the digest is unknown rather than wrong.
            await self._known.remove_alias(target, digest)
            return None
        return Manifest(content, buildcache.media_type(alias.form), digest)

    async def _fetch(self, target: Target, digest: Digest) -> Manifest:
        async def fetch() -> Manifest:
            manifest = await target.registry.get_manifest(target.repository, digest)
            await self._known.keep(target, manifest)
            return manifest

        return await self._fetches.do((*target.key, digest), fetch)

    # Forms

    async def _may_differ(self, target: Target, media_type: str, want: Want) -> bool:
        """Whether a client may have to see something other than what is stored."""
        return (
            want is not Want.STORED
            and media_type in buildcache.MEDIA_TYPES
            and await target.converts_pulls()
        )

    async def _show(self, target: Target, stored: Manifest, want: Want) -> Manifest:
        """The stored manifest in the wanted form, its alias persisted; itself if it is no cache."""
        contents = self._recognized.read(stored)
        if contents is None:
            return stored
        form = contents.legacy if want is Want.LEGACY else Form(want.value)
        content = self._convert(stored, form)
        if content == stored.content:
            return stored
        digest = Digest.of(content)
        await self._known.put_alias(target, digest, Alias(stored.digest, form))
        registry, repository = target.key
        self._events.emit(
            Event(Kind.RESTORED, registry, repository, digest, len(content), detail=form.value)
        )
        return Manifest(content, buildcache.media_type(form), digest)

    def _convert(self, stored: Manifest, form: Form) -> bytes:
        key = (stored.digest, form)
        content = self._shown.get(key)
        if content is None:
            content = buildcache.show(stored.content, form)
            if len(content) <= _SHOWN_BYTES:
                self._shown[key] = content
        return content


def _head_of(manifest: Manifest) -> Head:
    return Head(manifest.digest, manifest.media_type, len(manifest.content))
