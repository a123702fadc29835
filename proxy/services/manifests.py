"""Manifests for readers, each shown in the form that the client understands.

By digest a client gets exactly that digest's bytes; by tag, what upstream has now, converted for
readers of a BuildKit cache. While upstream cannot be asked, a reader gets what it had before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy import buildcache
from proxy.buildcache import Alias, Form, Want
from proxy.errors import ManifestUnknown, NameUnknown, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, Manifest, Reference, Tag
from proxy.services.completeness import Completeness
from proxy.services.known import KnownManifests
from proxy.services.recognized import Recognized
from proxy.services.references import find_checked
from proxy.services.registries import Target
from proxy.services.tags import Pointer, Tags
from proxy.services.vouched import Vouched
from proxy.singleflight import SingleFlight

_SHOWN_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest without its bytes; `size` is in bytes, None if upstream does not say.

    `age`: upstream could not be asked, and has said so as many seconds ago; None for what it has
    said just now.
    """

    digest: Digest
    media_type: str
    size: int | None
    age: float | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A manifest for a reader; `age` as in `Head`."""

    manifest: Manifest
    age: float | None = None


class Manifests:
    """Reads manifests under a repository.

    `fresh`: a client that is about to push asks whether it must. No stale answer will do then:
    trouble upstream is waited out for a while, and raised in the end.
    """

    def __init__(
        self,
        known: KnownManifests,
        tags: Tags,
        recognized: Recognized,
        completeness: Completeness,
        vouched: Vouched,
        events: Events,
    ) -> None:
        self._known = known
        self._tags = tags
        self._recognized = recognized
        self._completeness = completeness
        self._vouched = vouched
        self._events = events
        # The last part of a key: whether trouble is waited out.
        self._heads: SingleFlight[tuple[str, str, Tag, int, bool], Head] = SingleFlight()
        self._questions: SingleFlight[tuple[str, str, Digest, bool], None] = SingleFlight()
        self._fetches: SingleFlight[tuple[str, str, Digest], Manifest] = SingleFlight()
        self._shown: LRUCache[tuple[Digest, Form], bytes] = LRUCache(_SHOWN_BYTES, getsizeof=len)

    async def close(self) -> None:
        await self._heads.close()
        await self._questions.close()
        await self._fetches.close()

    async def head(
        self, target: Target, reference: Reference, want: Want, *, fresh: bool = False
    ) -> Head:
        """Digest, media type and size of what `get` would give; raises `ManifestUnknown`."""
        if isinstance(reference, Digest):
            known = await self._find(target, reference)
            if known is not None:
                await self._confirm(target, reference, fresh=fresh)
                await self._completeness.check(target, reference, known)
                return _head_of(known)
            found = await target.registry.head_manifest(target.repository, reference, patient=fresh)
            head = Head(reference, found.media_type, found.size)
            converts = False
        else:
            head = await self._revalidate(target, reference, fresh=fresh)
            converts = want is not Want.STORED and await self._converts(target, head)
        if not self._may_be_cache(head):
            return head
        try:
            manifest = await self._current(target, head)
        except RegistryError:
            if converts:
                raise
            return head  # its bytes were to be looked at, not to be given
        await self._completeness.check(target, reference, manifest)
        if converts:
            manifest = await self._show(target, manifest, want)
        return _head_of(manifest, head.age)

    async def get(
        self, target: Target, reference: Reference, want: Want, *, fresh: bool = False
    ) -> Given:
        """The manifest for a client that wants it so; raises `ManifestUnknown`."""
        if isinstance(reference, Digest):
            manifest = await self._find(target, reference) or await self._fetch(target, reference)
            await self._completeness.check(target, reference, manifest)
            if _is_away(target) or self._vouched.is_lent(target, reference):
                self._lend(target, manifest)
            return Given(manifest)
        head = await self._revalidate(target, reference, fresh=fresh)
        manifest = await self._current(target, head)
        await self._completeness.check(target, reference, manifest)
        if want is not Want.STORED and await self._converts(target, head):
            manifest = await self._show(target, manifest, want)
        return Given(manifest, head.age)

    # Reading

    async def _revalidate(self, target: Target, tag: Tag, *, fresh: bool) -> Head:
        """What the tag points at now, asked upstream; concurrent askers share the question.

        What it last pointed at, if upstream cannot be asked and that manifest is here.
        """
        writes = self._known.writes(target, tag)
        try:
            return await self._heads.do(
                (*target.key, tag, writes, fresh), lambda: self._ask(target, tag, writes, fresh)
            )
        except RegistryError as error:
            if fresh or not error.is_trouble:
                raise
            stale = await self._tags.find_stale(target, tag)
            manifest = stale and await self._known.find(target, stale[0].digest)
            if stale is None or manifest is None:
                raise
            self._tags.tell(target)
            self._lend(target, manifest)
            pointer, age = stale
            return Head(pointer.digest, pointer.media_type, pointer.size, age)

    def _lend(self, target: Target, manifest: Manifest) -> None:
        """Let readers have from disk what a manifest names that is given in an outage: a build
        that was told of a cache, and then gets no layer of it, fails.

        What was proved before a restart is forgotten. ECR takes no manifest without its blobs
        (ECR.md §4): that it gave this one is proof enough, of those that it looks for. Not so of
        every registry.
        """
        if target.registry.is_ecr:
            for digest in find_checked(manifest):
                self._vouched.lend(target, digest)

    async def _ask(self, target: Target, tag: Tag, writes: int, patient: bool) -> Head:
        registry, repository = target.registry, target.repository
        age: float | None = None
        try:
            found = await registry.head_manifest(repository, tag, patient=patient)
            if found.digest is None or found.size is None:
                # An upstream that does not name the digest: it is computed from the bytes.
                manifest = await registry.get_manifest(repository, tag)
                await self._known.keep(target, manifest)
                pointer = Pointer(manifest.digest, manifest.media_type, len(manifest.content))
            else:
                pointer = Pointer(found.digest, found.media_type, found.size)
                age = found.age
        except RegistryError as error:
            if error.is_trouble:
                raise
            if isinstance(error, ManifestUnknown | NameUnknown):
                pushed = self._tags.find_pushed(target, tag)
                if pushed is not None:
                    return Head(pushed.digest, pushed.media_type, pushed.size)
            if self._known.writes(target, tag) == writes:
                await self._tags.forget(target, tag)
            raise
        # An answer to a question from before a write is older than what was written.
        if self._known.writes(target, tag) == writes:
            await self._tags.heard(target, tag, pointer, age=age or 0.0)
        return Head(pointer.digest, pointer.media_type, pointer.size, age)

    async def _confirm(self, target: Target, digest: Digest, *, fresh: bool) -> None:
        """Raise `ManifestUnknown` if upstream has a known manifest no longer.

        Who asks by HEAD may leave out a push because of the answer, and what names the manifest
        would be refused then. Trouble upstream is no proof of anything.
        """
        alias = await self._known.find_alias(target, digest)
        stored = alias.stored if alias is not None else digest
        if self._known.was_seen(target, stored):
            return

        async def ask() -> None:
            await target.registry.head_manifest(target.repository, stored, patient=fresh)
            self._known.see(target, stored)

        try:
            await self._questions.do((*target.key, stored, fresh), ask)
        except ManifestUnknown:
            await self._known.forget(target, stored)
            raise
        except RegistryError as error:
            if fresh or not error.is_trouble:
                raise

    async def _current(self, target: Target, head: Head) -> Manifest:
        """The bytes of what a HEAD has just named."""
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

    def _may_be_cache(self, head: Head) -> bool:
        return head.media_type in buildcache.MEDIA_TYPES and not self._recognized.is_other(
            head.digest
        )

    async def _converts(self, target: Target, head: Head) -> bool:
        """Whether a client may have to see something other than what is stored."""
        if head.media_type not in buildcache.MEDIA_TYPES:
            return False
        try:
            return await target.converts_pulls()
        except RegistryError:
            if head.age is None:
                raise
            return False  # a registry that is out of reach, and has never said what it is

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


def _is_away(target: Target) -> bool:
    """Whether upstream is known not to answer; it is not asked."""
    registry = target.registry
    return registry.is_down or registry.credentials_problem() is not None


def _head_of(manifest: Manifest, age: float | None = None) -> Head:
    return Head(manifest.digest, manifest.media_type, len(manifest.content), age)
