"""The HTTP server: a place for each connection that is accepted, TLS, and aiohttp behind it.

aiohttp's own sites accept without a limit, and hold one TLS context for ever.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from aiohttp import web

from proxy.errors import BadRequest
from proxy.handlers.access_log import ACCESS_LOG, AccessLogger
from proxy.handlers.admission import Admission, Ticket, TurnedAway
from proxy.handlers.connections import Connection, Patience
from proxy.handlers.listener import Listener, bind
from proxy.refusals import Reason, Refusals

_log = logging.getLogger(__name__)

# For replies that are written as the server closes; it waits twice as long for what does not end.
_FLUSH_SECONDS: Final = 0.25
# How long a TLS connection that we have closed waits for the client to close it too.
_GOODBYE_SECONDS: Final = 5.0
# RFC 8446 §5.1: the first byte of a connection that speaks TLS.
_HANDSHAKE: Final = b"\x16"
_SPEAKS_HTTPS: Final = BadRequest(
    "this is HTTP, and the proxy speaks HTTPS here: write https:// before its address, or leave "
    "out what makes the client use plain HTTP"
)
# The system holds it in a signed 32-bit number.
_MAX_MILLISECONDS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Connections in all and of one client; bytes of a head; seconds for the rest."""

    max_connections: int
    max_connections_per_client: int
    max_header_size: int
    header_timeout: float
    send_timeout: float
    idle_timeout: float


class HttpServer:
    """Serves an application; `tls` gives the context of a connection that comes now."""

    def __init__(
        self,
        app: web.Application,
        *,
        limits: Limits,
        refusals: Refusals,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._limits = limits
        self._refusals = refusals
        self._tls = tls
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_FLUSH_SECONDS)
        self._patience = Patience(
            max_header_size=limits.max_header_size,
            header_timeout=limits.header_timeout,
            idle_timeout=limits.idle_timeout,
        )
        self._admission = Admission(
            refusals,
            most=limits.max_connections,
            most_per_client=limits.max_connections_per_client,
        )
        self._connecting: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None

    @property
    def connections(self) -> int:
        """How many clients have open, those that are being turned away not counted."""
        return self._admission.total

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Begin to listen, and say where; raises `OSError`. To be closed in any case."""
        sockets = await bind(host, port)
        await self._runner.setup()
        server = cast(web.Server, self._runner.server)
        handler = server.request_handler

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            return await cast(Connection, request.protocol).respond(request, handler)

        server.request_handler = respond
        self._listener = Listener(sockets, partial(self._take, server))
        return self._listener.address

    def stop(self) -> None:
        """Take no new connections; the others go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Let the last replies out, then close what is left."""
        self.stop()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        await self._runner.cleanup()

    def _take(self, server: web.Server, connection: socket.socket, address: str) -> None:
        admitted = self._admission.enter(address)
        if isinstance(admitted, Ticket):
            self._hurry(connection)
            protocol: asyncio.Protocol = self._serve(server, admitted)
            give_back = admitted.give_back
        else:
            turned_away = self._admission.turn_away(admitted)
            if turned_away is None:
                connection.close()
                return
            protocol, give_back = turned_away, turned_away.give_back
        connecting = asyncio.create_task(self._connect(connection, address, protocol, give_back))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    def _serve(self, server: web.Server, ticket: Ticket) -> Connection:
        return Connection(
            server,
            patience=self._patience,
            refusals=self._refusals,
            closed=ticket.give_back,
            access_log=ACCESS_LOG,
            access_log_class=AccessLogger,
        )

    def _hurry(self, connection: socket.socket) -> None:
        """Have the system give up a client that takes nothing (tcp(7), TCP_USER_TIMEOUT).

        That holds for files, for TLS and for plain writes alike. Where the option is missing, such
        a client is only given up when it is gone.
        """
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None:
            milliseconds = min(int(self._limits.send_timeout * 1000) or 1, _MAX_MILLISECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, option, milliseconds)

    async def _connect(
        self,
        connection: socket.socket,
        address: str,
        protocol: asyncio.Protocol,
        give_back: Callable[[], None],
    ) -> None:
        seconds = None if self._tls is None else self._limits.header_timeout
        goodbye = None if self._tls is None else _GOODBYE_SECONDS
        try:
            context = None if self._tls is None else self._tls()
            if seconds is not None and not await _says_hello(connection, seconds):
                self._refusals.count(Reason.BAD_REQUEST)
                context = seconds = goodbye = None
                protocol = TurnedAway(_SPEAKS_HTTPS, give_back)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=goodbye,
            )
        except OSError as error:
            self._count(error)
            why = getattr(error, "reason", None) or str(error) or "it did not begin in time"
            _log.info("TLS with %s failed: %s", address, why)
            connection.close()
            give_back()
        except BaseException:
            connection.close()
            give_back()
            raise

    def _count(self, error: OSError) -> None:
        """A handshake that failed; asyncio says by the second class that it took too long."""
        if isinstance(error, TimeoutError | ConnectionAbortedError):
            self._refusals.count(Reason.HEADER_TIMEOUT)
        elif isinstance(error, ssl.SSLError):
            self._refusals.count(Reason.BAD_REQUEST)


async def _says_hello(connection: socket.socket, seconds: float) -> bool:
    """Whether a client begins with TLS, as far as its first byte tells; that is left to be read.

    Raises `TimeoutError` where nothing comes.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK) in (b"", _HANDSHAKE)
