"""One HTTP exchange at a time: connections, forward proxies, limits of time; no decisions.

The only place that holds aiohttp's client sessions. What a status means, whom to authenticate to
and what to repeat is decided by `client`.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Final
from urllib import request as urllib_request

import aiohttp
from yarl import URL

from proxy import errors
from proxy.errors import RegistryError
from proxy.oci import MANIFEST_TYPES
from proxy.peer import PEER_HEADER, version
from proxy.upstream.addresses import ForbiddenAddress, is_forbidden, is_loopback
from proxy.upstream.failures import Dropped, without_secrets
from proxy.upstream.locations import origin
from proxy.upstream.silence import AnswerLimit, tracing
from proxy.upstream.trust import Trust
from proxy.upstream.values import Body, Tuning

# A presigned Location of S3 and a Bearer token in a reply are longer than aiohttp's 8190.
_MAX_HEADER_BYTES: Final = 128 * 1024
# What may gather of a body while its reader is busy; twice that makes upstream wait. With aiohttp's
# 64 KiB a blob comes in small pieces, each with a trip to a thread and back.
_READ_BYTES: Final = 512 * 1024
# What the system may hold of a body that it has not sent.
_UNSENT_BYTES: Final = 256 * 1024


class Pool(Enum):
    """Which connections a request uses.

    Several pools, so that what is slow cannot starve what is quick. REQUESTS (capped per host) are
    answered at upstream's pace, so each one gives its connection back soon. UPLOADS (capped per
    host: many at once have caused socket failures, ECR.md §7) hold theirs for as long as a chunk
    takes. DOWNLOADS are read at the pace of whoever reads the blob, which may be a stalled client:
    under a cap a few of those would shut everybody else out, for ever if the one who waits is the
    one they wait for. So they have none; the proxy's own readers, one a client connection or a
    fill, bound them. PROBES ask whether anybody is there: each on a connection of its own, since
    all of those that stand may be dead.
    """

    REQUESTS = auto()
    UPLOADS = auto()
    DOWNLOADS = auto()
    PROBES = auto()


@dataclass(frozen=True, slots=True)
class Sending:
    """A body to send: `length` bytes, asked for anew on each attempt."""

    content: bytes | Body
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request, without credentials.

    `silence`: how long the peer may be silent, in seconds, where it is not what `Tuning` says.
    """

    method: str
    url: URL = field(repr=False)  # it may be signed
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sending | None = None
    pool: Pool = Pool.REQUESTS
    silence: float | None = None


def choose_proxy(url: URL, proxies: Mapping[str, str]) -> str | None:
    """The forward proxy for `url`, None for a direct connection.

    `proxies` is what `urllib.request.getproxies_environment()` gives: scheme to URL, and `no`.
    Loopback is never asked for through a proxy: no other machine can reach it.
    """
    host = url.host or ""
    if is_loopback(host):
        return None
    # A bare IPv6 address would be cut at its last colon as if a port followed.
    named = f"[{host}]" if ":" in host else f"{host}:{url.port}"
    if urllib_request.proxy_bypass_environment(named, dict(proxies)):  # type: ignore[attr-defined]
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def check_proxies(proxies: Mapping[str, str]) -> None:
    """Raise `ValueError` naming a forward proxy that we cannot use."""
    for scheme in ("http", "https", "all"):
        proxy = proxies.get(scheme) or ""
        kind = proxy.partition("://")[0] if "://" in proxy else "http"
        if kind.lower() not in {"http", "https"}:
            raise ValueError(
                f"{scheme.upper()}_PROXY is a {kind} proxy, which is not supported: "
                "only http:// and https:// are"
            )


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware that takes aiohttp's own repetition away, and what its errors would tell.

    It would send a PUT or DELETE again whose connection was dropped, though upstream may have
    acted on it: then a manifest meets its own immutable tag, and an upload that is finished is
    unknown. What may be repeated is for `client` to say.
    """
    try:
        return await handler(request)
    except aiohttp.ClientResponseError as error:
        raise without_secrets(error) from None
    except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Dropped(str(error)) from error


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that takes no more than it can send soon.

    Linux buffers megabytes else: over a slow line a part would seem to be sent long before it is,
    and its answer to be late.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return made


def _open_allowed(address: aiohttp.AddrInfoType) -> socket.socket:
    """The same to an address that may be connected to, which raises `ForbiddenAddress` if not.

    It is the address that is used, whatever a name led to when it was looked up before.
    """
    if is_forbidden(str(address[4][0])):
        raise ForbiddenAddress
    return _open_socket(address)


class Transport:
    """The connections to one registry and to where it redirects. Close it.

    Nothing is asked at a link-local or metadata address, save through a forward proxy that the user
    has configured: that one may be anywhere, and decides itself where names lead.
    """

    def __init__(
        self,
        *,
        proxies: Mapping[str, str],
        tuning: Tuning,
        trust: Trust | None = None,
        base: URL | None = None,
        identity: tuple[Path, Path] | None = None,
    ) -> None:
        """`identity`: a certificate and its key, shown to the origin of `base` alone, and to a
        forward proxy on the way there that is itself spoken to over TLS and asks for one.

        Must be called in a running event loop. Raises `ValueError` for a bad proxy, and for files
        that cannot be used.
        """
        check_proxies(proxies)
        self._proxies = dict(proxies)
        self._tuning = tuning
        trust = trust or Trust()
        # Our own context rather than aiohttp's, which is made at import: SSL_CERT_FILE is read now.
        self._context = self._own_context = trust.context()
        self._origin = None if base is None else origin(base)
        if identity is not None:
            self._own_context = trust.context(identity)
        self._direct = self._open_sessions(_open_allowed)
        proxied = any(proxies.get(scheme) for scheme in ("http", "https", "all"))
        self._proxied = self._open_sessions(_open_socket) if proxied else {}

    def _open_sessions(
        self, open_socket: Callable[[aiohttp.AddrInfoType], socket.socket]
    ) -> dict[Pool, aiohttp.ClientSession]:
        limits = {
            Pool.REQUESTS: self._tuning.connections,
            Pool.UPLOADS: self._tuning.connections,
            Pool.DOWNLOADS: 0,
            Pool.PROBES: 0,
        }
        return {
            pool: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    limit_per_host=limit,
                    ssl=self._context,
                    force_close=pool is Pool.PROBES,
                    socket_factory=open_socket,
                ),
                middlewares=(_send_once,),
                trace_configs=[tracing()],
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_READ_BYTES,
                requote_redirect_url=False,
                trust_env=False,  # would read passwords from netrc, too
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
                headers={
                    "Accept-Encoding": "identity",
                    "User-Agent": f"ecr-cache-proxy/{version()}",
                    PEER_HEADER: version(),
                },
            )
            for pool, limit in limits.items()
        }

    async def send(self, request: Request, authorization: str | None) -> aiohttp.ClientResponse:
        """The response to one attempt, its body unread; the caller closes or releases it.

        Raises aiohttp's `ClientError`, `OSError` or `TimeoutError`; and what a body raises.
        """
        headers = {"Accept": ", ".join(MANIFEST_TYPES), **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        body = request.body
        if body is None:
            return await self._request(request, headers, None)
        if isinstance(body.content, bytes):
            # Of more than a MiB at once aiohttp warns that it might block the loop.
            return await self._request(request, headers, io.BytesIO(body.content))
        headers["Content-Length"] = str(body.length)
        watched = _WatchedBody(body.content, body.length, self._tuning.idle)
        try:
            async with asyncio.timeout(None) as stalled:
                watched.deadline = stalled
                return await self._request(request, headers, watched.chunks())
        except (aiohttp.ClientError, OSError):
            # aiohttp reports as its own whatever a body raises.
            if isinstance(watched.failure, RegistryError):
                raise watched.failure from None
            if watched.failure is not None:
                raise errors.Internal(
                    f"what was to be sent to {request.url.host} cannot be read: {watched.failure}"
                ) from watched.failure
            raise
        finally:
            # The answer may come before the body has ended; then there is nothing left to watch.
            watched.deadline = None

    async def close(self) -> None:
        for session in (*self._direct.values(), *self._proxied.values()):
            await session.close()

    async def _request(
        self,
        request: Request,
        headers: Mapping[str, str],
        data: io.BytesIO | AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        if is_forbidden(request.url.host or ""):
            raise ForbiddenAddress  # also where it is a forward proxy who would connect
        proxy = choose_proxy(request.url, self._proxies)
        sessions = self._direct if proxy is None else self._proxied
        silence = self._silence(request)
        length = request.body.length if request.body is not None else 0
        async with AnswerLimit(silence, length) as limit:
            return await sessions[request.pool].request(
                request.method,
                request.url,
                headers=headers,
                data=data,
                allow_redirects=False,
                proxy=proxy,
                ssl=self._own_context if origin(request.url) == self._origin else self._context,
                timeout=self._limits(request, silence),
                trace_request_ctx=limit,
            )

    def _silence(self, request: Request) -> float:
        tuning = self._tuning
        if request.silence is not None:
            return request.silence
        if request.pool is Pool.DOWNLOADS:
            return tuning.stall
        if request.pool is Pool.REQUESTS and request.method in {"GET", "HEAD"}:
            return tuning.answer
        return tuning.idle

    def _limits(self, request: Request, silence: float) -> aiohttp.ClientTimeout:
        tuning = self._tuning
        return aiohttp.ClientTimeout(
            total=None,  # a blob takes what it takes
            # This counts the wait for a place in the pool, which is short among requests, and
            # among uploads as long as they are.
            connect=tuning.queue if request.pool is Pool.REQUESTS else None,
            sock_connect=tuning.connect,
            # Not while we make the peer wait: aiohttp stops this clock as it stops reading.
            sock_read=silence,
        )


class _WatchedBody:
    """A body on its way out: its length is checked, and a peer that stops reading is noticed.

    aiohttp notices neither: with a Content-Length it would wait for an answer to a body that ended
    early, and it has no limit of time on writing.
    """

    def __init__(self, body: Body, length: int, idle: float) -> None:
        self._body = body
        self._length = length
        self._idle = idle
        self.deadline: asyncio.Timeout | None = None
        self.failure: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        sent = 0
        source = self._body()
        try:
            async for chunk in source:
                sent += len(chunk)
                if sent > self._length:
                    break
                # While our own source makes us wait it is not the peer who stalls.
                self._watch(loop.time() + self._idle)
                yield chunk
                self._watch(None)
            if sent != self._length:
                raise ValueError(f"a body of {self._length} bytes had {sent}")  # noqa: TRY301
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._watch(None)  # from here on the limit on reading the answer applies
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _watch(self, moment: float | None) -> None:
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(moment)
