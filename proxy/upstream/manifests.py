"""Manifests of a registry: HEAD, GET, PUT, DELETE (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from proxy.errors import BadGateway
from proxy.oci import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE,
    Digest,
    Manifest,
    Reference,
    RepositoryName,
    Tag,
)
from proxy.peer import AGE_HEADER
from proxy.upstream.client import Call, Client, Reply
from proxy.upstream.errors import Kind
from proxy.upstream.numbers import read_number
from proxy.upstream.transport import Sending
from proxy.upstream.values import ManifestHead, PutReply

# Content types that registries and proxies in between put on anything.
_UNTELLING: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


class ManifestCalls:
    """The manifest half of `Registry`."""

    _client: Client

    async def head_manifest(
        self, repository: RepositoryName, reference: Reference, *, patient: bool = False
    ) -> ManifestHead:
        """What upstream says of it; raises `ManifestUnknown`, or upstream's refusal.

        `patient`: it is asked for a push, which waits out trouble.
        """
        # RFC 7234 §5.2.1.4: who is patient will have no stale answer of a proxy in between.
        headers = {"Cache-Control": "no-cache"} if patient else {}
        call = self._read_call("HEAD", repository, reference, headers)
        reply = await self._client.ask(replace(call, patient=patient))
        return ManifestHead(
            digest=reference if isinstance(reference, Digest) else _find_digest(reply),
            media_type=_media_type(reply),
            size=read_number(reply.headers.get("Content-Length")),
            age=_find_age(reply),
        )

    async def get_manifest(self, repository: RepositoryName, reference: Reference) -> Manifest:
        """Its exact bytes, verified against the digest that was asked for or is claimed.

        Raises `ManifestUnknown`; `BadGateway` for wrong bytes or more than 4 MiB of them.
        """
        call = self._read_call("GET", repository, reference)
        reply = await self._client.ask(call, limit=MAX_MANIFEST_BYTES)
        # ECR does not name the digest of what it gives (ECR.md §3).
        claimed = reference if isinstance(reference, Digest) else _find_digest(reply)
        digest = Digest.of(reply.body, claimed.algorithm if claimed else "sha256")
        if claimed is not None and claimed != digest:
            raise BadGateway(
                f"{self._client.name} gave {len(reply.body)} bytes that hash to {digest} "
                f"for {call.what}, which is {claimed}"
            )
        return Manifest(reply.body, _media_type(reply), digest)

    async def put_manifest(
        self,
        repository: RepositoryName,
        reference: Reference,
        content: bytes,
        media_type: str,
        *,
        tags: Sequence[Tag] = (),
    ) -> PutReply:
        """Store it as it is; raises upstream's refusal in upstream's words.

        Trouble is waited out, and what may have been stored is sent again: it is the same content.
        Only an immutable tag is refused then, as it is there already.

        `tags` are to be set along with a digest, where upstream knows that (distribution-spec,
        "Pushing Manifests", after 1.1): the reply names those that were.
        """
        query = "&".join(f"tag={tag}" for tag in tags)
        reply = await self._client.ask(
            Call(
                "PUT",
                self._client.what(Kind.MANIFEST, repository, reference),
                f"/v2/{repository}/manifests/{reference}" + (query and f"?{query}"),
                ok=(200, 201, 202, 204),
                scope=f"repository:{repository}:pull,push",
                headers={"Content-Type": media_type},
                body=Sending(content, len(content)),
                safe=True,
                patient=True,
            )
        )
        return PutReply(
            _find_digest(reply),
            _read_digest(reply.headers.get("OCI-Subject", "")),
            tuple(_find_tags(reply)),
        )

    async def delete_manifest(self, repository: RepositoryName, reference: Reference) -> None:
        """Raises `ManifestUnknown`, or `Unsupported` where upstream deletes nothing."""
        await self._client.ask(
            Call(
                "DELETE",
                self._client.what(Kind.MANIFEST, repository, reference),
                f"/v2/{repository}/manifests/{reference}",
                ok=(200, 202, 204),
                scope=f"repository:{repository}:delete",
            )
        )

    def _read_call(
        self,
        method: str,
        repository: RepositoryName,
        reference: Reference,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Call:
        return Call(
            method,
            self._client.what(Kind.MANIFEST, repository, reference),
            f"/v2/{repository}/manifests/{reference}",
            scope=f"repository:{repository}:pull",
            headers=headers,
            safe=True,
        )


def _split(values: Sequence[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _find_tags(reply: Reply) -> Iterator[Tag]:
    for name in _split(reply.headers.getall("OCI-Tag", [])):
        with suppress(ValueError):
            yield Tag.parse(name)


def _find_digest(reply: Reply) -> Digest | None:
    return _read_digest(reply.headers.get("Docker-Content-Digest", ""))


def _read_digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except ValueError:
        return None


def _find_age(reply: Reply) -> float | None:
    return read_number(reply.headers.get(AGE_HEADER))


def _media_type(reply: Reply) -> str:
    """The Content-Type without parameters; where it says nothing, what the manifest says itself."""
    media_type = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # It becomes a header of ours, which not everything can that is in one, or in JSON.
    if MEDIA_TYPE.fullmatch(media_type) is None:
        media_type = ""
    if media_type in _UNTELLING and reply.body:
        try:
            document = json.loads(reply.body)
        except (ValueError, RecursionError):
            return media_type
        named = document.get("mediaType") if isinstance(document, dict) else None
        if isinstance(named, str) and MEDIA_TYPE.fullmatch(named):
            return named
    return media_type
