"""Replies of the registry API: the headers that all of them carry, errors, bodies that stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from urllib.parse import quote, urlencode

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy import __version__
from proxy.errors import Internal, NotFound, RegistryError, Unsupported
from proxy.peer import PEER_HEADER

_log = logging.getLogger(__name__)

# A reply to HEAD has no body: why a manifest is not there must be readable all the same.
ERROR_HEADER = "Ecr-Cache-Proxy-Error"

_COMMON = {
    "Server": "ecr-cache-proxy",  # instead of aiohttp's, which tells versions
    "Docker-Distribution-Api-Version": "registry/2.0",
    "X-Content-Type-Options": "nosniff",
    PEER_HEADER: __version__,
}


def reply(
    status: int = 200,
    *,
    body: bytes = b"",
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    response = web.Response(status=status, body=body, headers=_fields(headers or {}))
    if body:
        response.headers["Content-Type"] = _field(content_type)
    return response


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return _COMMON | {name: _field(value) for name, value in headers.items()}


def _field(value: str) -> str:
    """A header's value without what may not stand in one (RFC 9110 §5.5).

    Some are upstream's own words, and aiohttp reads there what it refuses to write: that would be
    a traceback and a closed connection.
    """
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else " " for c in value).strip()


def head_reply(size: int | None, headers: Mapping[str, str]) -> web.Response:
    """A reply to HEAD about content of `size` bytes (None: not known)."""
    response = web.Response(headers=_fields(headers))
    if size is not None:
        response.headers["Content-Length"] = str(size)
    return response


def error_reply(error: RegistryError) -> web.Response:
    # Trouble passes: a client that can ask again is told so, also where nobody knows when.
    soon = {"Retry-After": "1"} if error.is_trouble and error.wire_status > 500 else {}
    return reply(
        error.wire_status,
        body=error.body(),
        headers={**soon, **error.headers, ERROR_HEADER: error.reason()},
    )


async def stream_reply(
    request: web.Request,
    status: int,
    headers: Mapping[str, str],
    chunks: AsyncGenerator[bytes, None],
) -> web.StreamResponse:
    """Send a body of the length that `headers` name as it comes.

    When it breaks off, the connection is broken too: a client must never take a part for the
    whole, and nothing that is not of the body may be appended to it.
    """
    try:
        response = await start_reply(request, status, headers)
    except BaseException:
        await chunks.aclose()  # so that whoever gives them knows that nobody reads them
        raise
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if not await _written(response.write(chunk)):
                    return response
    except Exception as error:  # noqa: BLE001 whatever it was, the body is not whole
        break_off(request, str(error))
        return response
    await _written(response.write_eof())
    return response


async def start_reply(
    request: web.Request, status: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send the head of a reply whose body follows: at once, since that may take its time."""
    response = web.StreamResponse(status=status, headers=_fields(headers))
    response._send_headers_immediately = True
    await response.prepare(request)
    return response


def break_off(request: web.Request, reason: str) -> None:
    """Break the connection of a reply that has begun and cannot be ended as it should."""
    _log.warning("broke off %s %s: %s", request.method, request.rel_url.raw_path, reason)
    if request.transport is not None:
        request.transport.abort()


async def _written(write: Awaitable[None]) -> bool:
    """False when the client has gone away, which is no error of anybody's here."""
    try:
        await write
    except ConnectionError:
        return False
    return True


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where an error becomes a reply."""
    try:
        return await handler(request)
    except RegistryError as error:
        if error.wire_status >= 500:
            _log.warning("%s %s: %s", request.method, request.rel_url.raw_path, error.reason())
        return error_reply(error)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return error_reply(Unsupported(f"{request.method} is not supported here: {allowed} are"))
    except web.HTTPNotFound:
        return error_reply(NotFound(f"{request.path[:200]!r} is not served here; /v2/ is"))
    except ConnectionError:
        raise  # the client is gone: there is nobody to answer
    except Exception:  # noqa: BLE001 the last resort: logged with its traceback
        _log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        return error_reply(Internal("the proxy failed at this request; its log says why"))


def location(request: web.Request, path: str) -> str:
    """A location on this proxy: relative, and under the registry that the client named."""
    ns = request.query.get("ns")
    path = quote(path, safe="/:")
    return path if ns is None else f"{path}?{urlencode({'ns': ns})}"


def next_link(request: web.Request, query: str) -> dict[str, str]:
    """The Link header to the next page of a list: relative, so that it leads back here."""
    here = location(request, request.path)
    return {"Link": f'<{here}{"&" if "?" in here else "?"}{query}>; rel="next"'}
