"""Plain registries: nothing, static Basic, or Bearer tokens from where a challenge says.

distribution's "Token Authentication"; ECR Public's way, too, where AWS's token buys the bearer
token and nobody's credentials buy an anonymous one (ECR.md §1).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import aiohttp
from cachetools import LRUCache
from yarl import URL

from proxy.errors import BadGateway, RegistryError
from proxy.events import Event, Events, Kind
from proxy.singleflight import SingleFlight
from proxy.upstream.auth import ANY, BearerChallenge, parse_bearer
from proxy.upstream.bodies import read_body
from proxy.upstream.errors import What, conceal, read_words, refused_credentials
from proxy.upstream.failures import translate_failure, without_secrets
from proxy.upstream.locations import is_host, is_safe, origin, shown
from proxy.upstream.transport import Request, Transport
from proxy.upstream.values import Tuning

_MAX_TOKENS: Final = 1000
_MAX_REPLY_BYTES: Final = 1024 * 1024
# Of a token's life; what is left covers the request that it is sent with.
_USABLE: Final = 0.8


@dataclass(slots=True)
class _Held:
    header: str = field(repr=False)
    obtained: float
    expires: float | None  # None: it says nothing; it is used until it is refused
    challenge: BearerChallenge
    accepted: bool = False


class Bearer:
    """An `Authorizer` with a token for each scope, got from where the registry says.

    Credentials go to a realm on the registry's own origin and nowhere else; any other realm is
    refused (DESIGN.md settled 15).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base: URL,
        registry: str,
        credentials: Callable[[], Awaitable[str | None]],
        fallback: str | None = None,
        realm_hosts: frozenset[str] = frozenset(),
        events: Events,
        tuning: Tuning,
    ) -> None:
        """`credentials` gives the Basic header that buys tokens, None for nobody's.

        `fallback` is sent while there is no token: a registry may take Basic, and never challenge
        us for anything else. `realm_hosts` may give tokens besides the registry's own origin.
        """
        self._transport = transport
        self._base = base
        self._registry = registry
        self._credentials = credentials
        self._fallback = fallback
        self._realm_hosts = realm_hosts
        self._events = events
        self._tuning = tuning
        self._held: LRUCache[str, _Held] = LRUCache(_MAX_TOKENS)
        self._flight: SingleFlight[str, None] = SingleFlight()
        self._problem: str | None = None

    async def header(self, scope: str = ANY) -> str | None:
        held = self._held.get(scope)
        if held is None:
            return self._fallback  # a challenge, if one follows, says where to get a token
        if held.expires is not None and _now() >= held.expires:
            challenge = held.challenge
            await self._flight.do(scope, lambda: self._obtain(scope, challenge))
            held = self._held[scope]
        return held.header

    async def refresh(
        self, used: str | None, *, scope: str = ANY, challenge: Sequence[str] = ()
    ) -> None:
        held = self._held.get(scope)
        if held is not None and held.header != used:
            return
        if held is not None and not held.accepted and _now() - held.obtained < self._tuning.between:
            return
        asked = parse_bearer(challenge) or (held.challenge if held is not None else None)
        if asked is None:
            return  # no Bearer registry, or none that says so: the refusal stands
        await self._flight.do(scope, lambda: self._obtain(scope, asked))

    def accepted(self, used: str | None, *, scope: str = ANY) -> None:
        held = self._held.get(scope)
        if held is not None and held.header == used:
            held.accepted = True

    def age(self, scope: str = ANY) -> float | None:
        held = self._held.get(scope)
        return None if held is None else _now() - held.obtained

    def problem(self) -> str | None:
        return self._problem

    async def close(self) -> None:
        await self._flight.close()

    async def _obtain(self, scope: str, challenge: BearerChallenge) -> None:
        try:
            token, lifetime = await self._fetch(scope, challenge)
        except RegistryError as error:
            self._problem = error.message
            self._events.emit(Event(Kind.TROUBLE, registry=self._registry, detail=error.message))
            raise
        now = _now()
        expires = None if lifetime is None else now + lifetime * _USABLE
        self._held[scope] = _Held(f"Bearer {token}", now, expires, challenge)
        self._problem = None
        said = "until refused" if lifetime is None else f"for {lifetime:.0f} s"
        self._events.emit(Event(Kind.TOKEN, registry=self._registry, detail=f"valid {said}"))

    async def _fetch(self, scope: str, challenge: BearerChallenge) -> tuple[str, float | None]:
        url = self._realm(challenge, scope)
        what = What(self._registry)
        try:
            used = await self._credentials()
            async with await self._transport.send(Request("GET", url), used) as response:
                body = await read_body(response, _MAX_REPLY_BYTES)
        except (aiohttp.ClientError, OSError) as error:
            raise translate_failure(error, url, "a token") from without_secrets(error)
        if response.status != 200:
            words = read_words(response.headers, conceal(body, used))
            if response.status in {400, 401, 403}:
                raise refused_credentials(words, what)
            raise BadGateway(
                f"{self._registry} gave no token but status {response.status}: {words.message}"
            )
        return _read_token(body, self._registry)

    def _realm(self, challenge: BearerChallenge, scope: str) -> URL:
        try:
            realm = URL(challenge.realm, encoded=True)
            usable = is_safe(challenge.realm) and is_host(realm.host or "") and realm.port
            usable = usable and "@" not in realm.raw_authority
        except ValueError:
            usable = False
        if not usable:
            raise BadGateway(
                f"{self._registry} names the realm {shown(challenge.realm)!r}, which is no URL"
            )
        allowed = origin(realm) == origin(self._base) or (
            realm.scheme == "https" and realm.port == 443 and realm.host in self._realm_hosts
        )
        if not allowed:
            raise BadGateway(
                f"{self._registry} sends us to {realm.host} for a token: not followed, "
                "since credentials go to the registry's own host only"
            )
        parameters = [
            f"{name}={quote(value, safe='')}"
            for name, value in (
                ("service", challenge.service),
                *(("scope", one) for one in (challenge.scope or scope).split()),
            )
            if value
        ]
        joint = "&" if realm.raw_query_string else "?"
        return URL(f"{realm}{joint if parameters else ''}{'&'.join(parameters)}", encoded=True)


def _read_token(body: bytes, registry: str) -> tuple[str, float | None]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        token = document.get("token") or document.get("access_token")
        # It becomes a header: nothing but what RFC 6750 allows in one.
        if isinstance(token, str) and token.isascii() and token.isprintable():
            return token, _lifetime(document.get("expires_in"))
    raise BadGateway(f"{registry} answered a request for a token with what is no token")


def _lifetime(value: object) -> float | None:
    """Seconds; None for what says nothing, as infinity does, or a number that is no float."""
    try:
        seconds = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
