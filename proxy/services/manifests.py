"""Manifests: fetched, kept, and shown to each client in the form that it understands.

By digest a client gets exactly that digest's bytes; by tag, what upstream has now, converted for
readers of a BuildKit cache. A legacy cache that is pushed is stored as an image manifest, and an
alias from the client's digest to the stored one is on disk before any reply names it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy import buildcache
from proxy.buildcache import Alias, Form, Want
from proxy.cache import CacheError, RecordStore
from proxy.errors import DigestInvalid, ManifestInvalid, ManifestUnknown, RegistryError, Unavailable
from proxy.events import Event, Events, Kind
from proxy.oci import (
    DOCKER_LIST,
    EMPTY_DESCRIPTOR,
    EMPTY_JSON,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    Manifest,
    Reference,
    Tag,
)
from proxy.services.proofs import Proofs
from proxy.services.registries import Target
from proxy.singleflight import SingleFlight
from proxy.upstream import PutReply

# ECR refuses an image of more layers than this (ECR.md §4); other registries have no such limit.
ECR_MAX_LAYERS: Final = 500
_SHOWN_BYTES: Final = 16 * 1024 * 1024
_KNOWN_TAGS: Final = 20_000
# For how long what upstream has just taken or given stands without asking again. ECR may deny for
# a moment what it has just taken (ECR.md §5).
_SEEN_SECONDS: Final = 60.0

_MANIFEST: Final = "manifest"
_ALIAS: Final = "alias"

# What a cache manifest can come as; anything else is not even looked into.
_CACHE_TYPES: Final = frozenset({OCI_MANIFEST, OCI_INDEX, DOCKER_LIST})

_TagKey = tuple[str, str, str | None]  # None for all of a repository's tags


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest without its bytes; `size` is in bytes, None if upstream does not say."""

    digest: Digest
    media_type: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a PUT is answered with: the client's digest, and what upstream said besides."""

    digest: Digest
    subject: str | None
    tags: tuple[str, ...] = ()


class Manifests:
    """Reads and writes manifests under a repository."""

    def __init__(self, records: RecordStore, events: Events) -> None:
        self._records = records
        self._events = events
        self._heads: SingleFlight[tuple[_TagKey, int], Head] = SingleFlight()
        self._questions: SingleFlight[tuple[str, str, Digest], None] = SingleFlight()
        self._seen = Proofs(seconds=_SEEN_SECONDS)
        self._fetches: SingleFlight[tuple[str, str, Digest], Manifest] = SingleFlight()
        # How many writes a tag has seen: a reader joins only a question that began after the last.
        self._writes: LRUCache[_TagKey, int] = LRUCache(_KNOWN_TAGS)
        self._writes_seen = 0
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

    async def put(
        self,
        target: Target,
        reference: Reference,
        content: bytes,
        media_type: str,
        *,
        tags: Sequence[Tag] = (),
    ) -> Pushed:
        """Store a manifest upstream, a legacy cache rewritten; raises upstream's refusal.

        `tags` are set along with a digest, where upstream can do that.
        """
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        digest = Digest.of(content, algorithm)
        if isinstance(reference, Digest) and reference != digest:
            raise DigestInvalid(
                f"the manifest pushed to {target.repository} as {reference} hashes to {digest}"
            )
        stored = await self._rewrite(target, content, media_type, algorithm)
        try:
            if stored is None:
                manifest = Manifest(content, media_type, digest)
                reply = await self._send(target, reference, manifest, tags)
            else:
                reply = await self._send_rewritten(target, reference, digest, stored, tags)
        finally:
            for tag in (reference, *tags):
                self._wrote(target, tag)
        registry, repository = target.key
        self._events.emit(
            Event(Kind.PUSHED_MANIFEST, registry, repository, reference, len(content))
        )
        return Pushed(digest, reply.subject, reply.tags)

    async def delete(self, target: Target, reference: Reference) -> None:
        """Delete upstream what the client knows under that tag or digest."""
        if isinstance(reference, Tag):
            try:
                await target.registry.delete_manifest(target.repository, reference)
            finally:
                self._wrote(target, reference)
            return
        alias = await self._find_alias(target, reference)
        stored = alias.stored if alias is not None else reference
        try:
            await target.registry.delete_manifest(target.repository, stored)
        except ManifestUnknown:
            await self._forget(target, stored)
            raise
        finally:
            # Whatever tags it had, they are not what they were.
            self._wrote(target, None)
        await self._forget(target, stored)
        if alias is not None:
            await self._records.remove(_ALIAS, *target.key, reference)

    # Reading

    async def _revalidate(self, target: Target, tag: Tag) -> Head:
        """What the tag points at now, asked upstream; concurrent askers share the question."""

        async def ask() -> Head:
            head = await target.registry.head_manifest(target.repository, tag)
            if head.digest is None or head.size is None:
                # An upstream that does not name the digest: it is computed from the bytes.
                manifest = await target.registry.get_manifest(target.repository, tag)
                await self._keep(target, manifest)
                return _head_of(manifest)
            return Head(head.digest, head.media_type, head.size)

        key = (*target.key, tag)
        writes = max(self._writes.get(key, 0), self._writes.get((*target.key, None), 0))
        return await self._heads.do((key, writes), ask)

    async def _confirm(self, target: Target, digest: Digest) -> None:
        """Raise `ManifestUnknown` if upstream has a known manifest no longer.

        Who asks by HEAD may leave out a push because of the answer, and what names the manifest
        would be refused then. Trouble upstream is no proof of anything.
        """
        alias = await self._find_alias(target, digest)
        stored = alias.stored if alias is not None else digest
        if self._seen.has(target, stored):
            return

        async def ask() -> None:
            await target.registry.head_manifest(target.repository, stored)
            self._seen.add(target, stored)

        try:
            await self._questions.do((*target.key, stored), ask)
        except ManifestUnknown:
            await self._forget(target, stored)
            raise
        except RegistryError as error:
            if error.wire_status < 500 and error.wire_status != 429:
                raise

    async def _forget(self, target: Target, stored: Digest) -> None:
        self._seen.drop(target, stored)
        await self._records.remove(_MANIFEST, *target.key, stored)

    async def _current(self, target: Target, head: Head) -> Manifest:
        """The bytes of what a HEAD of a tag has just named."""
        return await self._find(target, head.digest) or await self._fetch(target, head.digest)

    async def _find(self, target: Target, digest: Digest) -> Manifest | None:
        """Known here for good: a manifest that upstream once gave, or an alias of one."""
        record = await self._records.find(_MANIFEST, *target.key, digest)
        if record is not None:
            media_type, _, content = record.partition(b"\n")
            return Manifest(content, media_type.decode(), digest)
        alias = await self._find_alias(target, digest)
        if alias is None:
            return None
        stored = await self._find(target, alias.stored) or await self._fetch(target, alias.stored)
        content = self._convert(stored, alias.form)
        if not digest.matches(content):
            # Only a record that somebody tampered with, or a conversion of another version of this
            # program, leads here: the digest is unknown rather than wrong.
            await self._records.remove(_ALIAS, *target.key, digest)
            return None
        return Manifest(content, buildcache.media_type(alias.form), digest)

    async def _find_alias(self, target: Target, digest: Digest) -> Alias | None:
        record = await self._records.find(_ALIAS, *target.key, digest)
        if record is None:
            return None
        try:
            return Alias.load(record)
        except ValueError:
            return None  # another version of this program wrote it; a HEAD of the tag renews it

    async def _put_alias(self, target: Target, digest: Digest, alias: Alias) -> None:
        try:
            await self._records.put(_ALIAS, *target.key, digest, alias.dump())
        except CacheError as error:
            # No reply may name a digest that could not be read back.
            raise Unavailable(
                f"{target.repository}: what {digest} stands for cannot be kept on the proxy's "
                f"disk ({error}); make room there, or enlarge the cache"
            ) from error

    async def _fetch(self, target: Target, digest: Digest) -> Manifest:
        async def fetch() -> Manifest:
            manifest = await target.registry.get_manifest(target.repository, digest)
            await self._keep(target, manifest)
            return manifest

        return await self._fetches.do((*target.key, digest), fetch)

    async def _keep(self, target: Target, manifest: Manifest) -> None:
        record = manifest.media_type.encode() + b"\n" + manifest.content
        await self._records.put(_MANIFEST, *target.key, manifest.digest, record)
        self._seen.add(target, manifest.digest)

    # Forms

    async def _may_differ(self, target: Target, media_type: str, want: Want) -> bool:
        """Whether a client may have to see something other than what is stored."""
        return (
            want is not Want.STORED and media_type in _CACHE_TYPES and await target.converts_pulls()
        )

    async def _show(self, target: Target, stored: Manifest, want: Want) -> Manifest:
        """The stored manifest in the wanted form, its alias persisted; itself if it is no cache."""
        if buildcache.find_form(stored.content) is None:
            return stored
        form = buildcache.legacy_form(stored.content) if want is Want.LEGACY else Form(want.value)
        content = self._convert(stored, form)
        if content == stored.content:
            return stored
        digest = Digest.of(content)
        await self._put_alias(target, digest, Alias(stored.digest, form))
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

    # Writing

    async def _rewrite(
        self, target: Target, content: bytes, media_type: str, algorithm: str
    ) -> buildcache.Stored | None:
        """The cache as it is to be stored; None for what is sent as it is."""
        if media_type not in _CACHE_TYPES or buildcache.find_form(content, media_type) is None:
            return None
        if not await target.rewrites_pushes():
            return None
        limit = ECR_MAX_LAYERS if target.registry.is_ecr else None
        try:
            stored = buildcache.to_stored(
                content, media_type=media_type, max_layers=limit, algorithm=algorithm
            )
        except buildcache.Unstorable as error:
            raise ManifestInvalid(f"{target.repository}: {error}") from error
        return None if stored.manifest.content is content else stored

    async def _send_rewritten(
        self,
        target: Target,
        reference: Reference,
        client: Digest,
        stored: buildcache.Stored,
        tags: Sequence[Tag],
    ) -> PutReply:
        if stored.needs_empty_blob:
            await self._push_empty_blob(target)
        name = reference if isinstance(reference, Tag) else stored.manifest.digest
        reply = await self._send(target, name, stored.manifest, tags)
        await self._put_alias(target, client, Alias(stored.manifest.digest, stored.form))
        registry, repository = target.key
        self._events.emit(
            Event(
                Kind.REWRITTEN,
                registry,
                repository,
                reference,
                len(stored.manifest.content),
                detail=f"{stored.form.value} {client} stored as {stored.manifest.digest}",
            )
        )
        return reply

    async def _send(
        self, target: Target, reference: Reference, manifest: Manifest, tags: Sequence[Tag]
    ) -> PutReply:
        reply = await target.registry.put_manifest(
            target.repository, reference, manifest.content, manifest.media_type, tags=tags
        )
        await self._keep(target, manifest)
        return reply

    async def _push_empty_blob(self, target: Target) -> None:
        """ECR wants every layer of a manifest to be there, the empty one too.

        Sent each time: it is two bytes, and that it was there once is no proof that it is now.
        """
        upload = await target.registry.start_upload(target.repository)
        if upload is not None:
            await target.registry.finish_upload(
                upload,
                EMPTY_DESCRIPTOR.digest,
                offset=0,
                length=len(EMPTY_JSON),
                body=_empty_json,
            )

    def _wrote(self, target: Target, tag: Reference | None) -> None:
        """From here on no reader of the tag, or of any tag where it is None, joins a question that
        was asked before this write ended."""
        self._writes_seen += 1
        self._writes[(*target.key, tag)] = self._writes_seen


async def _empty_json() -> AsyncIterator[bytes]:
    yield EMPTY_JSON


def _head_of(manifest: Manifest) -> Head:
    return Head(manifest.digest, manifest.media_type, len(manifest.content))
