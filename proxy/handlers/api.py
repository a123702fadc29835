"""The registry API: each request parsed, resolved to a repository, and handed to its noun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

from aiohttp import web

from proxy.handlers.blobs import BlobHandlers
from proxy.handlers.listings import ListingHandlers
from proxy.handlers.manifests import ManifestHandlers
from proxy.handlers.replies import reply
from proxy.handlers.routes import Noun, Route, parse
from proxy.handlers.uploads import UploadHandlers
from proxy.services.registries import Registries, Target

_NounHandler: TypeAlias = Callable[[web.Request, Route, Target], Awaitable[web.StreamResponse]]


class RegistryApi:
    """Everything below /v2/."""

    def __init__(
        self,
        registries: Registries,
        *,
        blobs: BlobHandlers,
        manifests: ManifestHandlers,
        uploads: UploadHandlers,
        listings: ListingHandlers,
    ) -> None:
        self._registries = registries
        self._listings = listings
        self._handlers: dict[tuple[Noun, str], _NounHandler] = {
            (Noun.MANIFEST, "GET"): manifests.get,
            (Noun.MANIFEST, "HEAD"): manifests.head,
            (Noun.MANIFEST, "PUT"): manifests.put,
            (Noun.MANIFEST, "DELETE"): manifests.delete,
            (Noun.BLOB, "GET"): blobs.get,
            (Noun.BLOB, "HEAD"): blobs.head,
            (Noun.BLOB, "DELETE"): blobs.delete,
            (Noun.UPLOADS, "POST"): uploads.start,
            (Noun.UPLOAD, "GET"): uploads.status,
            (Noun.UPLOAD, "PATCH"): uploads.append,
            (Noun.UPLOAD, "PUT"): uploads.finish,
            (Noun.UPLOAD, "DELETE"): uploads.cancel,
            (Noun.TAGS, "GET"): listings.tags,
            (Noun.REFERRERS, "GET"): listings.referrers,
        }

    def add_to(self, app: web.Application) -> None:
        app.router.add_route("*", "/v2", self.handle)
        app.router.add_route("*", "/v2/{path:.*}", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        route = parse(request.method, request.path)
        match route.noun:
            case Noun.PING:
                return reply(body=b"{}")
            case Noun.CATALOG:
                registry = await self._registries.catalog(request.query.get("ns"))
                return await self._listings.repositories(request, registry)
            case _:
                target = await self._registries.resolve(route.name, request.query.get("ns"))
                target = replace(target, client=request.remote or "")
                return await self._handlers[route.noun, request.method](request, route, target)
