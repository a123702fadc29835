"""One client's connection: how long it may take, what is read on it, and how it ends.

aiohttp's connection with a clock for the head of a request, a strict parser, and the registry's
errors where aiohttp has pages of its own. How many connections there may be is not judged here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http import HttpRequestParser

from proxy.errors import (
    BadRequest,
    ExpectationFailed,
    HeaderTooLarge,
    Internal,
    RegistryError,
    RequestLate,
    TargetTooLong,
)
from proxy.handlers.parsing import Refused, StrictParser
from proxy.handlers.replies import error_reply
from proxy.refusals import Reason, Refusals

# How much of a body is read ahead of whoever takes it, in bytes: aiohttp's own measure.
_READ_AHEAD: Final = 256 * 1024
# How long what a client goes on sending is read and thrown away after its last reply: a connection
# that is closed with bytes unread is reset, and the reply with it (RFC 9112, section 9.6).
_FAREWELL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Bytes that a head may have; seconds for it to come, and that a connection may be idle."""

    max_header_size: int
    header_timeout: float
    idle_timeout: float


class Connection(web.RequestHandler):
    """A connection of a server; `closed` is called once when it has ended.

    Of aiohttp's own names these are used that it does not promise to keep: `_parser`, which a
    connection asks for requests, and `_waiter`, the future that is there and not done while it
    waits for one (aiohttp's own idle timer looks at it). A test holds both.
    """

    __slots__ = (
        "_closed",
        "_farewell",
        "_head_timer",
        "_leaving",
        "_patience",
        "_refusals",
        "_strict",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        patience: Patience,
        refusals: Refusals,
        closed: Callable[[], None],
        access_log: Any,
        access_log_class: type[AbstractAccessLogger],
    ) -> None:
        loop = asyncio.get_running_loop()
        # Digests are of the bytes that were sent, so nothing is decoded.
        reading: dict[str, Any] = {
            "max_line_size": patience.max_header_size,
            "max_field_size": patience.max_header_size,
            "auto_decompress": False,
        }
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=patience.idle_timeout,
            access_log=access_log,
            access_log_class=access_log_class,
            read_bufsize=_READ_AHEAD,
            **reading,
        )

        def fresh() -> Any:
            return HttpRequestParser(
                self,
                loop,
                _READ_AHEAD,
                payload_exception=web.RequestPayloadError,
                **reading,
            )

        first: Any = self._parser
        self._strict = StrictParser(first, fresh, max_bytes=patience.max_header_size)
        self._parser = self._strict  # type: ignore[assignment]
        self._patience = patience
        self._refusals = refusals
        self._closed = closed
        self._head_timer: asyncio.TimerHandle | None = None
        # Whether the reply that is being given is the last one; set once that has been sent.
        self._leaving = False
        self._farewell: asyncio.Event | None = None

    # As asyncio calls it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        if self._farewell is not None:
            return
        super().data_received(data)
        if self._strict.in_head:
            if self._head_timer is None:
                self._start_clock()
        elif self._head_timer is not None and self._strict.has_begun:
            self._head_timer.cancel()
            self._head_timer = None

    def eof_received(self) -> None:
        if self._farewell is not None:
            self._farewell.set()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self._farewell is not None:
            self._farewell.set()
        if isinstance(exc, TimeoutError):
            self.count_unread()
        super().connection_lost(exc)
        self._closed()

    # Time

    def _start_clock(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(
            self._patience.header_timeout, self._head_is_late
        )

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport is None or self.transport.is_closing():
            return
        if self._waiter is None or self._waiter.done():
            self._start_clock()  # a reply is under way, and part of the next request is there
            return
        self._refusals.count(Reason.HEADER_TIMEOUT)
        # Who has sent nothing may have connected ahead of need, and does not expect a reply.
        if self._strict.in_head:
            self.transport.write(
                render(
                    RequestLate(
                        "the header of the request did not come within "
                        f"{self._patience.header_timeout:g} seconds, the setting header-timeout"
                    )
                )
            )
        self.force_close()

    def count_unread(self) -> None:
        """The client has read nothing for too long: the system has given the connection up."""
        self._refusals.count(Reason.SEND_TIMEOUT)

    # Replies

    async def respond(
        self,
        request: web.BaseRequest,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """The handler's reply, or the registry's error where aiohttp has a page."""
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return self._refuse(_translate(error))
        if self._strict.ends_with(request.content):
            self._leaving = True
            response.force_close()
        return response

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last reply on a connection: to what could not be read, or after a fault of ours."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone
        if isinstance(exc, Refused):
            return self._refuse(exc.error)
        self.log_exception("%s failed", request.method, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionResetError("the reply had begun")
        return self._last_reply(Internal("the proxy failed at this request; its log says why"))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the end of a reply, and where it is the last one, see the client off."""
        sent, gone = await super().finish_response(request, resp, start_time)
        if self._leaving and not gone:
            await self._take_leave()
        return sent, gone

    def _refuse(self, error: RegistryError) -> web.StreamResponse:
        too_large = isinstance(error, HeaderTooLarge | TargetTooLong)
        self._refusals.count(Reason.HEADER_SIZE if too_large else Reason.BAD_REQUEST)
        return self._last_reply(error)

    def _last_reply(self, error: RegistryError) -> web.StreamResponse:
        self._leaving = True
        reply = error_reply(error)
        reply.force_close()
        reply.headers["Connection"] = "close"  # HTTP/1.0 would not need it said
        return reply

    async def _take_leave(self) -> None:
        """Read what the client still sends, without a look at it, until it ends; then close."""
        self._farewell = asyncio.Event()
        if self.transport is not None:
            if self.transport.can_write_eof():
                with suppress(OSError):
                    self.transport.write_eof()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._farewell.wait()
        self.force_close()


def count_unread(request: web.BaseRequest) -> None:
    """Sending a file to this client ended with a timeout of the system's."""
    if isinstance(request.protocol, Connection):
        request.protocol.count_unread()


def render(error: RegistryError, *, body: bool = True) -> bytes:
    """An error as the bytes of a whole reply, for where there is no request to answer."""
    reply = error_reply(error)
    content = error.body()
    reply.headers["Content-Length"] = str(len(content))
    reply.headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + content if body else head


def _translate(error: web.HTTPException) -> RegistryError:
    """What aiohttp says before a handler is asked."""
    if error.status == HTTPStatus.EXPECTATION_FAILED:
        return ExpectationFailed("the only expectation that can be met is 100-continue")
    return BadRequest(error.reason)
