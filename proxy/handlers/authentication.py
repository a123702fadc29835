"""Who has sent a request: nothing but probes is answered before that is known."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.access import NOBODY, Authenticator, Identity, network_of
from proxy.errors import RegistryError, TooManyRequests, Unauthorized
from proxy.handlers.expectation import is_held
from proxy.handlers.replies import error_reply
from proxy.refusals import Reason, Refusals

_IDENTITY = web.RequestKey("identity", Identity)

# Probes of Kubernetes and of balancers bring no credentials.
_OPEN: Final = "/livez"
_TERSE: Final = "/readyz"

# What a refused client has on its way is taken for a moment, so that it reads the reply instead of
# finding the connection reset (RFC 9112 §9.6).
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024


def authentication(
    authenticator: Authenticator,
    refusals: Refusals,
    *,
    trusts: Callable[[ssl.SSLContext], bool],
) -> Middleware:
    """A middleware that lets through who has authenticated, where that is needed.

    `trusts` tells whether a certificate that was checked in that context counts still.
    """

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_probe = request.method in ("GET", "HEAD") and not request.body_exists
        if request.path == _OPEN and is_probe:
            return await handler(request)
        headers = request.headers.getall("Authorization", [])
        # More than one is none that is right: who else reads the request may take another of them.
        authorization = ", ".join(headers) if headers else None
        certificate, context = _certificate(request) or (None, None)
        is_old = context is not None and not trusts(context)
        if is_old:
            certificate = None
        if request.path == _TERSE and is_probe and authorization is None and certificate is None:
            if not authenticator.is_needed:
                request[_IDENTITY] = NOBODY
            return await handler(request)
        try:
            request[_IDENTITY] = await authenticator.authenticate(
                authorization, certificate, request.remote or ""
            )
        except Unauthorized as error:
            refusals.count(Reason.UNAUTHENTICATED)
            response = await turn_away(request, error)
            if is_old:  # a new connection may bring a certificate that counts
                response.force_close()
            return response
        except TooManyRequests as error:
            refusals.count(Reason.ATTEMPTS)
            return await turn_away(request, error)
        return await handler(request)

    return authenticate


def is_let_in(request: web.BaseRequest) -> bool:
    """Whether the client has said who it is, or need not."""
    return _IDENTITY in request


def identity_of(request: web.BaseRequest) -> Identity:
    """Who has sent the request; `NOBODY` where that is not known."""
    identity: Identity = request.get(_IDENTITY, NOBODY)
    return identity


def client_of(request: web.BaseRequest) -> str:
    """By what limits tell clients apart: the user if there is one, else the address."""
    return identity_of(request).user or network_of(request.remote or "")


async def turn_away(request: web.Request, error: RegistryError) -> web.StreamResponse:
    """Refuse a request without reading its body: the connection ends with the reply."""
    response = error_reply(error)
    if request.content.is_eof():
        return response
    response.force_close()
    response.headers["Connection"] = "close"
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
        if not is_held(request):
            await _linger(request)
    # aiohttp would read on for some seconds, as fast as it comes.
    request.protocol.force_close()
    return response


async def _linger(request: web.Request) -> None:
    taken = 0
    with suppress(TimeoutError, web.RequestPayloadError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while taken < _LINGER_BYTES and not request.content.at_eof():
                taken += len(await request.content.readany())


def _certificate(request: web.Request) -> tuple[bytes, ssl.SSLContext] | None:
    """The client's certificate in DER, which TLS has checked in that context."""
    if request.transport is None:
        return None
    connection: ssl.SSLObject | None = request.transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    certificate = connection.getpeercert(binary_form=True)
    return None if certificate is None else (certificate, connection.context)
