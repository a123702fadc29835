"""Tags, repositories and referrers."""

from __future__ import annotations

import json
from urllib.parse import unquote_plus, urlencode

from aiohttp import web

from proxy.access import Action, Rules
from proxy.errors import PageInvalid
from proxy.handlers.authentication import identity_of
from proxy.handlers.replies import next_link, reply
from proxy.handlers.routes import Route
from proxy.oci import OCI_INDEX
from proxy.services.catalog import Catalog
from proxy.services.listings import Listings, PageRequest
from proxy.services.registries import Target, aliases_of
from proxy.upstream import Page, Registry


class ListingHandlers:
    """Renders lists."""

    def __init__(self, listings: Listings, catalog: Catalog, rules: Rules) -> None:
        self._listings = listings
        self._catalog = catalog
        self._rules = rules

    async def tags(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        page = await self._listings.tags(target, _page(request))
        # The name as the client wrote it: a parent proxy's or a registry's host before it too.
        return _render(request, page, {"name": route.name, "tags": page.names})

    async def repositories(self, request: web.Request, registry: Registry) -> web.StreamResponse:
        asked, identity = _page(request), identity_of(request)
        if self._rules.restricts:

            def may_see(name: str) -> bool:
                aliases = aliases_of(registry, name)
                return self._rules.allows(
                    identity, Action.PULL, registry.name, name, aliases=aliases
                )

            page = await self._catalog.page(registry, asked, may_see)
        else:
            page = await self._listings.repositories(registry, asked)
        return _render(request, page, {"repositories": page.names})

    async def referrers(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        assert route.digest is not None  # noqa: S101 routes.parse gives every subject a digest
        wanted = request.query.get("artifactType")
        found = await self._listings.referrers(target, route.digest, wanted, _page_query(request))
        headers = {"OCI-Filters-Applied": "artifactType"} if found.filtered else {}
        if found.next_query is not None:
            headers |= next_link(request, found.next_query)
        return reply(body=found.content, content_type=OCI_INDEX, headers=headers)


def _page_query(request: web.Request) -> str | None:
    """The query of a further page, verbatim as upstream gave it; None for the first one.

    But for `ns`, however it is spelled: to a proxy upstream it would name another registry than the
    one that was judged.
    """
    if not set(request.query) - {"ns", "artifactType"}:
        return None
    parts = request.rel_url.raw_query_string.split("&")
    return "&".join(part for part in parts if unquote_plus(part.partition("=")[0]) != "ns")


def _page(request: web.Request) -> PageRequest:
    text = request.query.get("n")
    if text is None:
        return PageRequest(last=request.query.get("last"))
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise PageInvalid(f"n={text[:40]!r} is no number of entries")
    return PageRequest(int(text), request.query.get("last"))


def _render(request: web.Request, page: Page, content: dict[str, object]) -> web.Response:
    headers = {}
    if page.next_last is not None:
        query = {"last": page.next_last}
        if "n" in request.query:
            query["n"] = request.query["n"]
        headers = next_link(request, urlencode(query))
    return reply(body=json.dumps(content).encode(), headers=headers)
