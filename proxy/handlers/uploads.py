"""Uploads of blobs: begin, continue, finish, ask, cancel, mount (distribution-spec, "Push")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from proxy.access import Action, Rules
from proxy.errors import BlobUploadInvalid, BlobUploadUnknown, DigestInvalid
from proxy.handlers.authentication import identity_of
from proxy.handlers.bodies import Bodies
from proxy.handlers.ranges import parse_chunk
from proxy.handlers.replies import location, reply
from proxy.handlers.routes import Route, parse_digest
from proxy.oci import Digest, RepositoryName
from proxy.services.registries import Registries, Target, aliases_of
from proxy.services.uploads import Uploads


class UploadHandlers:
    """Renders uploads."""

    def __init__(
        self, uploads: Uploads, registries: Registries, rules: Rules, bodies: Bodies
    ) -> None:
        self._uploads = uploads
        self._registries = registries
        self._rules = rules
        self._bodies = bodies

    async def start(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        if "mount" in request.query:
            return await self._mount(request, route, target)
        if "digest" in request.query:
            return await self._post(request, route, target)
        return _accepted(request, route, await self._uploads.start(target), 0)

    async def _post(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        """A blob in one request."""
        digest = parse_digest(request.query["digest"])
        length = request.content_length
        self._uploads.check_size(length or 0)
        token = await self._uploads.start(target)
        try:
            await self._uploads.finish(
                target, token, digest, self._body(request), offset=None, length=length
            )
        except BaseException:
            # Its client knows no location, so nobody could go on with it.
            with suppress(BlobUploadUnknown):
                await self._uploads.cancel(target, token)
            raise
        return _created(request, route, digest)

    async def _mount(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        digest = parse_digest(request.query["mount"])
        token: str | None
        source = None
        if "from" in request.query:
            source = await self._registries.mount_source(request.query["from"], target)
            # In another registry nothing can be mounted from there.
            is_mountable = source is not None and self._may_pull(request, target, source)
        else:
            # From wherever the registry likes, which rules could not judge.
            is_mountable = not self._rules.restricts
        if is_mountable:
            token = await self._uploads.mount(target, digest, source)
        else:
            token = await self._uploads.start(target)
        if token is None:
            return _created(request, route, digest)
        return _accepted(request, route, token, 0)

    def _may_pull(self, request: web.Request, target: Target, source: RepositoryName) -> bool:
        """Whether whoever asks may read there: whoever may not sees what a blob that is not there
        would show."""
        return self._rules.allows(
            identity_of(request),
            Action.PULL,
            target.registry.name,
            source,
            aliases=aliases_of(target.registry, source),
        )

    async def append(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        length = request.content_length
        offset = parse_chunk(request.headers.get("Content-Range"), length)
        size = await self._uploads.append(
            target, route.token, self._body(request), offset=offset, length=length
        )
        return _accepted(request, route, route.token, size)

    async def finish(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        digest = _claimed(request)
        offset = None
        if request.body_exists:
            offset = parse_chunk(request.headers.get("Content-Range"), request.content_length)
        await self._uploads.finish(
            target,
            route.token,
            digest,
            self._body(request),
            offset=offset,
            length=request.content_length,
        )
        return _created(request, route, digest)

    async def status(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        size = await self._uploads.status(target, route.token)
        return reply(204, headers=_progress(request, route, route.token, size))

    async def cancel(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        await self._uploads.cancel(target, route.token)
        return reply(204)

    def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """What the client sends; a client that breaks off mid-body has sent an invalid upload."""
        return self._bodies.read(request, BlobUploadInvalid)


def _claimed(request: web.Request) -> Digest:
    if "digest" not in request.query:
        raise DigestInvalid("an upload is finished with ?digest=<the blob's digest>")
    return parse_digest(request.query["digest"])


def _progress(request: web.Request, route: Route, token: str, size: int) -> dict[str, str]:
    return {
        "Location": location(request, f"/v2/{route.name}/blobs/uploads/{token}"),
        "Range": f"0-{max(0, size - 1)}",
        "Docker-Upload-UUID": token,
    }


def _accepted(request: web.Request, route: Route, token: str, size: int) -> web.Response:
    return reply(202, headers=_progress(request, route, token, size))


def _created(request: web.Request, route: Route, digest: Digest) -> web.Response:
    headers = {
        "Location": location(request, f"/v2/{route.name}/blobs/{digest}"),
        "Docker-Content-Digest": digest,
    }
    return reply(201, headers=headers)
