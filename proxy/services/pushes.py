"""Manifests on their way up, and deletions.

A legacy cache that is pushed is stored as an image manifest, and an alias from the client's digest
to the stored one is on disk before any reply names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from proxy import buildcache
from proxy.buildcache import Alias
from proxy.errors import (
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
)
from proxy.events import Event, Events, Kind
from proxy.oci import EMPTY_DESCRIPTOR, EMPTY_JSON, Digest, Manifest, Reference, Tag
from proxy.services.completeness import Completeness
from proxy.services.debts import Debts
from proxy.services.existence import Existence
from proxy.services.known import KnownManifests
from proxy.services.leases import Leases
from proxy.services.openings import Openings
from proxy.services.outgoing import ContentLost
from proxy.services.proofs import Proofs
from proxy.services.references import find_checked, find_references
from proxy.services.registries import PushMode, Target
from proxy.services.remedies import (
    explain_immutable,
    explain_missing_blobs,
    is_immutable_refusal,
    missing_digests,
)
from proxy.upstream import PutReply

# ECR refuses an image of more layers than this (ECR.md §4); other registries have no such limit.
ECR_MAX_LAYERS: Final = 500
# A manifest that names what is not there (ECR.md §4, distribution).
_MISSING_CODES: Final = frozenset({"BLOB_UPLOAD_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a PUT is answered with: the client's digest, and what upstream said besides."""

    digest: Digest
    subject: str | None
    tags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Pushes:
    """Writes and deletes manifests under a repository."""

    def __init__(
        self,
        known: KnownManifests,
        completeness: Completeness,
        debts: Debts,
        openings: Openings,
        existence: Existence,
        proofs: Proofs,
        leases: Leases,
        events: Events,
    ) -> None:
        self._known = known
        self._completeness = completeness
        self._debts = debts
        self._openings = openings
        self._existence = existence
        self._proofs = proofs
        self._leases = leases
        self._events = events
        # The manifests that are on their way: an index waits for its children.
        self._sending: dict[tuple[str, str, Digest], asyncio.Future[None]] = {}

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
                self._known.wrote(target, tag)
        registry, repository = target.key
        self._events.emit(
            Event(Kind.PUSHED_MANIFEST, registry, repository, reference, len(content))
        )
        warnings = self._completeness.pushed(target, Manifest(content, media_type, digest))
        return Pushed(digest, reply.subject, reply.tags, warnings)

    async def delete(self, target: Target, reference: Reference) -> None:
        """Delete upstream what the client knows under that tag or digest."""
        if isinstance(reference, Tag):
            try:
                await target.registry.delete_manifest(target.repository, reference)
            finally:
                self._known.wrote(target, reference)
                await self._known.deleted(target, reference)
            return
        alias = await self._known.find_alias(target, reference)
        stored = alias.stored if alias is not None else reference
        try:
            await target.registry.delete_manifest(target.repository, stored)
        except ManifestUnknown:
            await self._known.deleted(target, stored)
            raise
        finally:
            # Whatever tags it had, they are not what they were.
            self._known.wrote(target, None)
        await self._known.deleted(target, stored)
        if alias is not None:
            await self._known.remove_alias(target, reference)

    async def _rewrite(
        self, target: Target, content: bytes, media_type: str, algorithm: str
    ) -> buildcache.Stored | None:
        """The cache as it is to be stored; None for what is sent as it is."""
        if (
            media_type not in buildcache.MEDIA_TYPES
            or buildcache.find_form(content, media_type) is None
        ):
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
        await self._known.put_alias(target, client, Alias(stored.manifest.digest, stored.form))
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
        """The commit point: what upstream takes here is whole, and nothing of it is owed."""
        named = find_references(manifest.content)
        async with self._on_its_way(target, manifest.digest):
            await self._gather(target, named)
            reply = await self._put(target, reference, manifest, tags, named)
        for digest in find_checked(manifest):
            # Upstream has just looked for it. Whom it had not been granted to before has no grant
            # now: not every registry looks.
            if self._proofs.had(target, digest):
                self._existence.add(target, digest, None)
        self._leases.release(target, named)
        # Tags that were to be set along are there if upstream says so.
        set_along = (tag for tag in tags if tag in reply.tags)
        await self._known.took(target, manifest, (reference, *set_along))
        return reply

    async def _gather(self, target: Target, named: Sequence[Digest]) -> None:
        """See that all that a manifest names is upstream, as far as it came through here."""
        children = [
            child for digest in named if (child := self._sending.get((*target.key, digest)))
        ]
        if children:
            await asyncio.wait(children)
        await self._debts.pay(target, named)

    @asynccontextmanager
    async def _on_its_way(self, target: Target, digest: Digest) -> AsyncIterator[None]:
        key = (*target.key, digest)
        own = asyncio.get_running_loop().create_future()
        first = self._sending.setdefault(key, own) is own
        try:
            yield
        finally:
            own.set_result(None)
            if first:
                del self._sending[key]

    async def _put(
        self,
        target: Target,
        reference: Reference,
        manifest: Manifest,
        tags: Sequence[Tag],
        named: Sequence[Digest],
    ) -> PutReply:
        async def send() -> PutReply:
            return await target.registry.put_manifest(
                target.repository, reference, manifest.content, manifest.media_type, tags=tags
            )

        try:
            return await send()
        except NameUnknown as error:
            await self._openings.create(target, error)
            return await send()
        except RegistryError as error:
            if is_immutable_refusal(error):
                return await self._accept_same(target, reference, manifest, error)
            if not await self._repair(target, missing_digests(error), named):
                raise self._doubt(target, error, named) from error.__cause__
        try:
            return await send()
        except RegistryError as error:
            raise self._doubt(target, error, named) from error.__cause__

    async def _accept_same(
        self, target: Target, reference: Reference, manifest: Manifest, refusal: RegistryError
    ) -> PutReply:
        """An immutable tag that points at these very bytes is what was asked for (ECR.md §4).

        So it is after a PUT whose reply was lost.
        """
        if isinstance(reference, Tag):
            try:
                head = await target.registry.head_manifest(
                    target.repository, reference, patient=True
                )
            except ManifestUnknown:
                head = None
            if head is not None and head.digest == manifest.digest:
                return PutReply(manifest.digest, None)
            raise explain_immutable(refusal, target, reference)
        raise refusal

    async def _repair(
        self, target: Target, missing: Sequence[Digest], named: Sequence[Digest]
    ) -> bool:
        """Send again from disk what upstream has lost of a manifest; false where that cannot be.

        Only what upstream once granted under this repository, or took: whoever knows no more of a
        blob than its digest gets nothing by naming it.
        """
        wanted = [digest for digest in missing if digest in named]
        if not wanted or not all(self._proofs.had(target, digest) for digest in wanted):
            return False
        registry, repository = target.key
        for digest in wanted:
            debt = self._debts.owe_stored(target, digest)
            if debt is None:
                return False
            detail = "upstream has lost it: it is sent again from disk"
            self._events.emit(Event(Kind.REPAIRED, registry, repository, digest, debt.size, detail))
        try:
            await self._debts.pay(target, wanted)
        except ContentLost:
            return False
        return True

    def _doubt(
        self, target: Target, refusal: RegistryError, named: Sequence[Digest]
    ) -> RegistryError:
        """What was known of what is missing was wrong: the client's next try is told so.

        Gives what this one is told.
        """
        missing = missing_digests(refusal)
        if not missing and refusal.wire_code in _MISSING_CODES:
            missing = tuple(named)  # which of them, it does not say
        for digest in missing:
            self._existence.drop(target, digest)
        if target.push_mode is PushMode.WRITE_BACK:
            # What was promised here may have been promised by another proxy behind a balancer.
            return explain_missing_blobs(refusal)
        return refusal

    async def _push_empty_blob(self, target: Target) -> None:
        """ECR wants every layer of a manifest to be there, the empty one too.

        Sent each time: it is two bytes, and that it was there once is no proof that it is now.
        """
        upload = await self._openings.open(target, patient=True)
        await target.registry.finish_upload(
            upload,
            EMPTY_DESCRIPTOR.digest,
            offset=0,
            length=len(EMPTY_JSON),
            body=_empty_json,
        )


async def _empty_json() -> AsyncIterator[bytes]:
    yield EMPTY_JSON
