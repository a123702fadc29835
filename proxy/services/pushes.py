"""Manifests on their way up, and deletions.

A legacy cache that is pushed is stored as an image manifest, and an alias from the client's digest
to the stored one is on disk before any reply names it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy import buildcache
from proxy.buildcache import Alias
from proxy.errors import DigestInvalid, ManifestInvalid, ManifestUnknown
from proxy.events import Event, Events, Kind
from proxy.oci import EMPTY_DESCRIPTOR, EMPTY_JSON, Digest, Manifest, Reference, Tag
from proxy.services.known import KnownManifests
from proxy.services.registries import Target
from proxy.upstream import PutReply

# ECR refuses an image of more layers than this (ECR.md §4); other registries have no such limit.
ECR_MAX_LAYERS: Final = 500


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a PUT is answered with: the client's digest, and what upstream said besides."""

    digest: Digest
    subject: str | None
    tags: tuple[str, ...] = ()


class Pushes:
    """Writes and deletes manifests under a repository."""

    def __init__(self, known: KnownManifests, events: Events) -> None:
        self._known = known
        self._events = events

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
        return Pushed(digest, reply.subject, reply.tags)

    async def delete(self, target: Target, reference: Reference) -> None:
        """Delete upstream what the client knows under that tag or digest."""
        if isinstance(reference, Tag):
            try:
                await target.registry.delete_manifest(target.repository, reference)
            finally:
                self._known.wrote(target, reference)
            return
        alias = await self._known.find_alias(target, reference)
        stored = alias.stored if alias is not None else reference
        try:
            await target.registry.delete_manifest(target.repository, stored)
        except ManifestUnknown:
            await self._known.forget(target, stored)
            raise
        finally:
            # Whatever tags it had, they are not what they were.
            self._known.wrote(target, None)
        await self._known.forget(target, stored)
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
        reply = await target.registry.put_manifest(
            target.repository, reference, manifest.content, manifest.media_type, tags=tags
        )
        await self._known.keep(target, manifest)
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


async def _empty_json() -> AsyncIterator[bytes]:
    yield EMPTY_JSON
