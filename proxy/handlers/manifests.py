"""GET, HEAD, PUT and DELETE of manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from proxy.buildcache import Want
from proxy.errors import ManifestInvalid, ManifestTooLarge, TagInvalid
from proxy.handlers.bodies import Bodies
from proxy.handlers.replies import head_reply, location, reply
from proxy.handlers.routes import Route
from proxy.handlers.viewer import Show, asks_to_push, choose
from proxy.oci import MEDIA_TYPE, Reference, Tag
from proxy.peer import AGE_HEADER, PEER_HEADER
from proxy.refusals import Reason, Refusals
from proxy.services.manifests import Manifests
from proxy.services.pushes import Pushes
from proxy.services.registries import Target


class ManifestHandlers:
    """Renders manifests. `show` forces the form that readers of a cache get, by registry.

    None of more than `max_size` bytes is taken.
    """

    def __init__(
        self,
        manifests: Manifests,
        pushes: Pushes,
        show: Mapping[str, Show],
        bodies: Bodies,
        refusals: Refusals,
        *,
        max_size: int,
    ) -> None:
        self._manifests = manifests
        self._pushes = pushes
        self._show = show
        self._bodies = bodies
        self._refusals = refusals
        self._max_size = max_size

    async def get(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        want = self._want(request, target)
        given = await self._manifests.get(
            target, _reference(route), want, fresh=_refuses_stale(request)
        )
        manifest = given.manifest
        return reply(
            body=manifest.content,
            content_type=manifest.media_type,
            headers={
                "Docker-Content-Digest": manifest.digest,
                "Etag": f'"{manifest.digest}"',
                **_stale(given.age),
            },
        )

    async def head(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        want = self._want(request, target)
        fresh = _refuses_stale(request) or asks_to_push(request.headers.getall("Accept", []))
        head = await self._manifests.head(target, _reference(route), want, fresh=fresh)
        headers = {
            "Content-Type": head.media_type,
            "Docker-Content-Digest": head.digest,
            "Etag": f'"{head.digest}"',
            **_stale(head.age),
        }
        return head_reply(head.size, headers)

    async def put(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        content = await self._read(request)
        media_type = _media_type(request, content)
        pushed = await self._pushes.put(
            target, _reference(route), content, media_type, tags=_tags(request)
        )
        headers = {
            "Docker-Content-Digest": pushed.digest,
            "Location": location(request, f"/v2/{route.name}/manifests/{pushed.digest}"),
        }
        if pushed.subject is not None:
            headers["OCI-Subject"] = pushed.subject
        if pushed.tags:
            headers["OCI-Tag"] = ", ".join(pushed.tags)
        if pushed.warnings:
            # distribution-spec, "Warnings": the code 299, no agent, a quoted string.
            headers["Warning"] = ", ".join(f'299 - "{text}"' for text in pushed.warnings)
        return reply(201, headers=headers)

    async def delete(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        await self._pushes.delete(target, _reference(route))
        return reply(202)

    async def _read(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > self._max_size:
            raise self._too_large()
        content = bytearray()
        async for chunk in self._bodies.read(request, ManifestInvalid):
            content += chunk
            if len(content) > self._max_size:
                raise self._too_large()
        return bytes(content)

    def _too_large(self) -> ManifestTooLarge:
        self._refusals.count(Reason.MANIFEST_SIZE)
        return ManifestTooLarge(
            f"a manifest of more than {self._max_size} bytes (max-manifest-size) is not taken, and "
            "no registry takes one of more than 4 MiB: make it name fewer layers"
        )

    def _want(self, request: web.Request, target: Target) -> Want:
        return choose(
            request.headers.getall("Accept", []),
            request.headers.get("User-Agent", ""),
            peer=PEER_HEADER in request.headers,
            show=self._show[target.registry.name],
        )


def _refuses_stale(request: web.Request) -> bool:
    """RFC 7234 §5.2.1.4. A proxy of this kind asks so for a client of its own that pushes."""
    directives = ",".join(request.headers.getall("Cache-Control", [])).lower().split(",")
    return "no-cache" in (directive.strip() for directive in directives)


def _stale(age: float | None) -> dict[str, str]:
    """How a reply is marked that is not upstream's own of now (RFC 7234 §5.5.1)."""
    if age is None:
        return {}
    return {"Warning": '110 - "Response is Stale"', AGE_HEADER: str(int(age))}


def _reference(route: Route) -> Reference:
    assert route.reference is not None  # noqa: S101 routes.parse gives every manifest one
    return route.reference


def _tags(request: web.Request) -> list[Tag]:
    try:
        return [Tag.parse(text) for text in request.query.getall("tag", [])]
    except ValueError as error:
        raise TagInvalid(str(error)) from error


def _media_type(request: web.Request, content: bytes) -> str:
    """What the client says it is, or what the manifest says of itself."""
    if "Content-Type" in request.headers:
        return _checked(request.headers["Content-Type"].partition(";")[0].strip().lower())
    try:
        named = json.loads(content).get("mediaType")
    except (ValueError, RecursionError, AttributeError):
        named = None
    if not isinstance(named, str):
        raise ManifestInvalid("the manifest has no media type: send it with a Content-Type")
    return _checked(named)


def _checked(media_type: str) -> str:
    """It becomes a header, which not everything can that a client sends in one, or in JSON."""
    if MEDIA_TYPE.fullmatch(media_type) is None:
        raise ManifestInvalid(f"{media_type[:160]!r} is no media type")
    return media_type
