"""Where the watch listens in: at what leaves any proxy in this process, whoever runs it.

It listens at the places that all of it goes through, and not where tests happen to look: a test
that reads no reply and no log is watched like any other. Nothing is changed by listening.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterable
from typing import IO, Any, Final

from aiohttp.web_app import Application
from aiohttp.web_protocol import RequestHandler

from proxy.events import Event, Events
from proxy.handlers.replies import render_errors
from proxy.metrics import Metrics
from proxy.refusals import Reason, Refusals
from tests.canaries.scanner import OVERLAP
from tests.canaries.watch import WATCH

# So much of each reply is searched: what is longer is a blob, which is what it hashes to.
_MOST: Final = 1024 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
# What stands between two chunks of a body.
_BETWEEN: Final = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")

_metrics: weakref.WeakSet[Metrics] = weakref.WeakSet()


def install() -> None:
    """Listen in from now on, in the whole process."""
    _tap_log()
    _tap_replies()
    _tap_events()
    _tap_metrics()
    _tap_refusals()


def see_metrics() -> None:
    """Search the page of every proxy that there has been since the last time."""
    for metrics in list(_metrics):
        WATCH.see("metrics", metrics.render())
        _metrics.discard(metrics)


class _LogTap(logging.Handler):
    """Searches every record as a line of a log: its arguments put in, its traceback below it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            WATCH.traceback()
        where = f"{record.name}, {record.filename}:{record.lineno}"
        WATCH.see("log", self.format(record), where=where)


def _tap_log() -> None:
    # As the program does for `--log-level debug`: libraries log no more than their news.
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.getLogger("proxy").setLevel(logging.DEBUG)
    root.addHandler(_LogTap())


class _Stream:
    """One connection of a client to a proxy, in the direction of the client."""

    def __init__(self) -> None:
        self._tail = b""
        self._left = 0
        self._chunked = False

    def see(self, data: bytes) -> None:
        head = _STATUS.match(data)
        if head is not None:
            WATCH.reply(int(head[1]))
            self._tail, self._left = b"", _MOST
            self._chunked = _CHUNKED.search(data) is not None
        if self._left > 0:
            # What was cut between two pieces is in one of them and what came before it.
            text = self._tail + data[: self._left]
            WATCH.see("replies", _BETWEEN.sub(b"", text) if self._chunked else text)
            self._left -= len(data)
            self._tail = data[-OVERLAP:] if len(data) >= OVERLAP else (self._tail + data)[-OVERLAP:]


def _tap_replies() -> None:
    """Listen to what is written to a transport, encrypted or not: below the handlers."""
    made = RequestHandler.connection_made

    def connection_made(self: RequestHandler, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        if _is_a_proxy(self):
            _listen(transport, _Stream())

    RequestHandler.connection_made = connection_made  # type: ignore[method-assign]
    sendfile = asyncio.BaseEventLoop.sendfile

    async def sendfile_too(
        self: asyncio.BaseEventLoop,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        stream = getattr(transport, "_watched", None)
        if stream is not None:
            stream.see(
                os.pread(file.fileno(), _MOST if count is None else min(count, _MOST), offset)
            )
        return await sendfile(self, transport, file, offset, count, fallback=fallback)

    asyncio.BaseEventLoop.sendfile = sendfile_too  # type: ignore[method-assign]


def _is_a_proxy(handler: RequestHandler) -> bool:
    """Whether a server is a proxy's, rather than one that a test puts upstream of it."""
    factory = getattr(handler._manager, "request_factory", None)
    app = getattr(factory, "__self__", None)
    return isinstance(app, Application) and render_errors in app.middlewares


def _listen(transport: Any, stream: _Stream) -> None:
    write: Callable[[bytes], None] = transport.write

    def watched_write(data: bytes | bytearray | memoryview) -> None:
        stream.see(bytes(data))
        write(data)  # type: ignore[arg-type]

    def watched_writelines(pieces: Iterable[bytes]) -> None:
        pieces = list(pieces)
        stream.see(b"".join(pieces))
        writelines(pieces)

    writelines: Callable[[Iterable[bytes]], None] = transport.writelines
    transport.write, transport.writelines = watched_write, watched_writelines
    transport._watched = stream


def _tap_events() -> None:
    emit = Events.emit

    def watched_emit(self: Events, event: Event) -> None:
        WATCH.see("events", f"{event}")
        emit(self, event)

    Events.emit = watched_emit  # type: ignore[method-assign]


def _tap_metrics() -> None:
    made = Metrics.__init__

    def watched_init(self: Metrics, *arguments: Any, **more: Any) -> None:
        made(self, *arguments, **more)
        _metrics.add(self)

    Metrics.__init__ = watched_init  # type: ignore[method-assign]


def _tap_refusals() -> None:
    count = Refusals.count

    def watched_count(self: Refusals, reason: Reason) -> None:
        if reason is Reason.REDIRECT:
            WATCH.refused_redirect()
        count(self, reason)

    Refusals.count = watched_count  # type: ignore[method-assign]
