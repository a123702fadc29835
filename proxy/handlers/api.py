"""The registry API: each request parsed, judged by the rules, resolved to a repository, and handed
to its noun.

What is judged is where the request would go, as it is written there. No registry is asked, nor the
cache, before that: whoever is refused learns nothing of what exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from aiohttp import web

from proxy.access import Action, Identity, Rules
from proxy.errors import Denied, NameUnknown
from proxy.handlers.authentication import client_of, identity_of, turn_away
from proxy.handlers.blobs import BlobHandlers
from proxy.handlers.expectation import hold
from proxy.handlers.listings import ListingHandlers
from proxy.handlers.manifests import ManifestHandlers
from proxy.handlers.replies import reply
from proxy.handlers.routes import Noun, Route, parse
from proxy.handlers.uploads import UploadHandlers
from proxy.refusals import Reason, Refusals
from proxy.services.registries import Registries, Target

_NounHandler: TypeAlias = Callable[[web.Request, Route, Target], Awaitable[web.StreamResponse]]

# Any of these is enough. Pushers ask before they push.
_READ: Final = (Action.PULL,)
_ASK: Final = (Action.PULL, Action.PUSH)
_WRITE: Final = (Action.PUSH,)
_DELETE: Final = (Action.DELETE,)

_MAX_DEED: Final = 300  # characters, with a name that a client has written


class RegistryApi:
    """Everything below /v2/."""

    def __init__(
        self,
        registries: Registries,
        rules: Rules,
        refusals: Refusals,
        *,
        blobs: BlobHandlers,
        manifests: ManifestHandlers,
        uploads: UploadHandlers,
        listings: ListingHandlers,
    ) -> None:
        self._registries = registries
        self._rules = rules
        self._refusals = refusals
        self._listings = listings
        self._handlers: dict[tuple[Noun, str], tuple[tuple[Action, ...], _NounHandler]] = {
            (Noun.MANIFEST, "GET"): (_READ, manifests.get),
            (Noun.MANIFEST, "HEAD"): (_ASK, manifests.head),
            (Noun.MANIFEST, "PUT"): (_WRITE, manifests.put),
            (Noun.MANIFEST, "DELETE"): (_DELETE, manifests.delete),
            (Noun.BLOB, "GET"): (_READ, blobs.get),
            (Noun.BLOB, "HEAD"): (_ASK, blobs.head),
            (Noun.BLOB, "DELETE"): (_DELETE, blobs.delete),
            (Noun.UPLOADS, "POST"): (_WRITE, uploads.start),
            (Noun.UPLOAD, "GET"): (_WRITE, uploads.status),
            (Noun.UPLOAD, "PATCH"): (_WRITE, uploads.append),
            (Noun.UPLOAD, "PUT"): (_WRITE, uploads.finish),
            (Noun.UPLOAD, "DELETE"): (_WRITE, uploads.cancel),
            (Noun.TAGS, "GET"): (_READ, listings.tags),
            (Noun.REFERRERS, "GET"): (_READ, listings.referrers),
        }

    def add_to(self, app: web.Application) -> None:
        app.router.add_route("*", "/v2", self.handle, expect_handler=hold)
        app.router.add_route("*", "/v2/{path:.*}", self.handle, expect_handler=hold)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        route = parse(request.method, request.path)
        ns = request.query.get("ns")
        identity = identity_of(request)
        match route.noun:
            case Noun.PING:
                return reply(body=b"{}")
            case Noun.CATALOG:
                named = self._registries.name(ns)
                if not self._rules.allows_some(identity, named, Action.PULL):
                    of = "" if ns is None else f" of {ns!r}"
                    return await self._refuse(request, f"list the repositories{of}")
                registry = self._registries.catalog(ns, self._shown(identity))
                return await self._listings.repositories(request, registry)
            case _:
                place = self._registries.place(route.name, ns)
                actions, handler = self._handlers[route.noun, request.method]
                judged = (place.registry.name, place.repository)
                if not self._allows(identity, actions, *judged, place.aliases):
                    return await self._refuse(request, f"{actions[0]} {route.name!r}", actions[0])
                try:
                    target = await self._registries.resolve(place, self._shown(identity))
                except NameUnknown:
                    # Whether a registry is configured is for those who might use it.
                    if self._allows(identity, actions, place.host, place.rest):
                        raise
                    return await self._refuse(request, f"{actions[0]} {route.name!r}", actions[0])
                target = replace(target, client=client_of(request), user=identity.user)
                return await handler(request, route, target)

    def _allows(
        self,
        identity: Identity,
        actions: Sequence[Action],
        registry: str,
        repository: str,
        aliases: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Whether any of the actions is allowed."""
        allows = self._rules.allows
        return any(
            allows(identity, action, registry, repository, aliases=aliases) for action in actions
        )

    def _shown(self, identity: Identity) -> Callable[[str], bool]:
        """Which registries a client may hear of: those where it may do something."""
        return lambda registry: self._rules.allows_some(identity, registry, *Action)

    async def _refuse(
        self, request: web.Request, deed: str, action: Action = Action.PULL
    ) -> web.StreamResponse:
        """Says the same whatever there is; it repeats only what the client has said itself."""
        self._refusals.count(Reason.DENIED)
        user = identity_of(request).user
        who = f"the user {user}" if user else "a client without a user"
        why = "no rule of this proxy's configuration allows it"
        if self._rules.read_only and action is not Action.PULL:
            why = "this proxy is started with --read-only"
        error = Denied(f"{who} may not {deed[:_MAX_DEED]}: {why}")
        return await turn_away(request, error)
