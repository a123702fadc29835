"""What is taken for a request: a stricter reading than aiohttp's parser has.

A proxy in front of this one may read the same bytes in another way, and what one of the two takes
for a body, the other takes for a request of somebody else. So what can be read in two ways is
refused, and nothing that follows it on the connection is read at all. Sources: RFC 9112, sections
3, 6 and 11.2; RFC 9110, section 7.2. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from proxy.errors import BadRequest, HeaderTooLarge, RegistryError, TargetTooLong

Message: TypeAlias = tuple[RawRequestMessage, StreamReader]
Fed: TypeAlias = tuple[Sequence[Message], bool, bytes]

_NOTHING: Final[Fed] = ((), False, b"")
_END: Final = b"\r\n\r\n"
_HOST: Final = re.compile(r"[A-Za-z0-9._~:%\[\]-]*")
# A signed 64-bit number at most: aiohttp's parser takes 2⁶⁴-1 for "no body".
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
# Of a field: the colon, a space and the line's end.
_FIELD_OVERHEAD: Final = 4


class Refused(HttpProcessingError):
    """A request that is not to be read; `error` is the answer to it."""

    def __init__(self, error: RegistryError) -> None:
        super().__init__(code=error.wire_status, message=error.message)
        self.error = error


class Parser(Protocol):
    """What is used of aiohttp's parser of requests."""

    def feed_data(self, data: bytes, /) -> Fed: ...
    def message_consumed(self) -> None: ...
    def pause_reading(self) -> None: ...
    def set_upgraded(self, val: bool, /) -> None: ...


class StrictParser:
    """Stands where a connection has aiohttp's parser, and looks at what that one takes.

    One request is read at a time: what comes along with it in one piece, before there can be a
    reply, is dropped, and `last` says that the connection is to end with that reply.

    Invariant: once `last` is set by what was read, nothing more is parsed.
    """

    def __init__(self, first: Parser, fresh: Callable[[], Parser], *, max_bytes: int) -> None:
        """A parser of aiohttp's, and what makes more of them.

        A head may have `max_bytes`, its first line too.
        """
        self._inner = first
        self._fresh = fresh
        self._max = max_bytes
        self._deaf = False
        self._spent = False
        self.last = False
        # Whether there was a request, or what was to be one.
        self.has_begun = False
        # Of the head that has come in part: its first line, as far as it goes, and its size.
        self.in_head = False
        self._line = b""
        self._size = 0
        # Of the last request: its body, and the last bytes that came of a chunked one.
        self._body: StreamReader | None = None
        self._tail: bytes | None = None

    # What aiohttp's connection asks for

    def feed_data(self, data: bytes, /) -> Fed:
        """Requests whose head is whole; raises `Refused`."""
        if self._deaf:
            return _NOTHING
        in_body = self._body is not None and not self._body.is_eof()
        if not in_body:
            if self._spent and data:
                # aiohttp's parser adds the trailers of a chunked body to the next request's
                # headers: a client's Authorization, say, to somebody else's request.
                self._inner, self._spent, self._tail = self._fresh(), False, None
            self._begin_head(data)
        try:
            messages, upgraded, rest = self._inner.feed_data(data)
        except HttpProcessingError as error:
            refused = self._refuse(self._translate(error))
            if in_body and self._body is not None:
                self.last = True
                # aiohttp would leave whoever reads the body waiting for the rest.
                told = refused.error.message.rpartition(": ")[2]
                self._body.set_exception(web.RequestPayloadError(told))
                return _NOTHING
            raise refused from error
        if messages:
            messages = self._take(messages, in_body=in_body)
        elif not in_body and data:
            self._go_on_in_head(data)
        self._follow_chunks(data)
        return messages, upgraded, rest

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def set_upgraded(self, val: bool, /) -> None:
        self._inner.set_upgraded(val)

    def message_consumed(self) -> None:
        self._inner.message_consumed()

    # Heads

    def _begin_head(self, data: bytes) -> None:
        """Keep the first line of a head, which the parsed request is held against."""
        if not self.in_head:
            self._line, self._size = b"", 0
        if not self._line and data[:1] in (b"\r", b"\n"):
            # Empty lines before a request are to be passed over (RFC 9112, section 2.2).
            data = data.lstrip(b"\r\n")
        if not self._line.endswith(b"\n"):
            room = self._max + 1 - len(self._line)
            end = data.find(b"\n", 0, room) + 1
            self._line += data[: end or room]

    def _go_on_in_head(self, data: bytes) -> None:
        self.in_head = bool(self._line)
        self._size += len(data)
        if self._size > self._max:
            raise self._refuse(self._too_large())

    def _refuse(self, error: RegistryError) -> Refused:
        """Stop reading."""
        self._deaf = self.has_begun = True
        self.in_head = False
        return Refused(error)

    def _too_large(self) -> RegistryError:
        advice = f"than {self._max} bytes, the setting max-header-size; send less"
        if len(self._line) > self._max:
            return TargetTooLong(f"the request's first line has more {advice}")
        return HeaderTooLarge(f"the request's header has more {advice}")

    def _translate(self, error: HttpProcessingError) -> RegistryError:
        if isinstance(error, LineTooLong):
            return self._too_large()
        # The rest of the text repeats what was sent, which may be a password.
        told = re.split(r"\n|b['\"]", error.message.strip(), maxsplit=1)[0].strip(" :")[:100]
        if told.startswith("Too many headers"):
            return HeaderTooLarge("the request has too many headers; send fewer")
        told = "".join(c if c.isprintable() else " " for c in told)
        return BadRequest(f"this is no request of HTTP/1.1: {told}")

    def _take(self, messages: Sequence[Message], *, in_body: bool) -> Sequence[Message]:
        if in_body and self._tail is not None:
            # Behind the end of a chunked body, by a parser that knows its trailers.
            self.last = self._deaf = True
            return ()
        message, body = messages[0]
        line = None if in_body else self._line
        problem = self._too_large_in_all(message) or find_ambiguity(message, line)
        if problem is not None:
            raise self._refuse(problem)
        if len(messages) > 1:
            self.last = self._deaf = True
        if message.upgrade:
            self.last = True  # what follows may be another protocol
        self.in_head, self.has_begun = False, True
        self._body = body
        self._tail = b"" if message.chunked else None
        return messages[:1]

    def _too_large_in_all(self, message: RawRequestMessage) -> RegistryError | None:
        fields = sum(len(n) + len(v) + _FIELD_OVERHEAD for n, v in message.raw_headers)
        return self._too_large() if len(message.path) + fields > self._max else None

    # Bodies

    def ends_with(self, body: StreamReader) -> bool:
        """Whether a reply that is given now is the connection's last.

        Where a chunked body goes on behind the reply, its end is not waited for: see above.
        """
        return self.last or (self._tail is not None and body is self._body and not body.is_eof())

    def _follow_chunks(self, data: bytes) -> None:
        if self._tail is None or self._body is None or self._spent:
            return
        self._tail = (self._tail + data)[-len(_END) :]
        if self._body.is_eof():
            if self._tail == _END:
                self._spent = True
            else:  # a request came along behind the body, or a part of one
                self.last = self._deaf = True


def find_ambiguity(message: RawRequestMessage, line: bytes | None) -> RegistryError | None:
    """What is wrong with a request that aiohttp takes; `line` is its first one, where known."""
    if message.version not in (HttpVersion10, HttpVersion11):
        return BadRequest("only HTTP/1.1 and HTTP/1.0 are spoken here")
    major, minor = message.version
    target = message.path
    if not target.startswith("/") or message.method == "CONNECT" or "#" in target:
        return BadRequest("the request's target is no path of this server, which begins with /")
    if line is not None:
        plain = f"{message.method} {target} HTTP/{major}.{minor}\r\n"
        if line != plain.encode("utf-8", "surrogateescape"):
            return BadRequest("the request's first line is not METHOD PATH HTTP/1.1")
    headers = message.headers
    if not _HOST.fullmatch(headers.get("Host", "")):
        return BadRequest("the header Host holds no host name")
    encoding, length = headers.get("Transfer-Encoding"), headers.get("Content-Length")
    if encoding is not None:
        if encoding.lower() != "chunked" or message.version == HttpVersion10:
            return BadRequest("the only Transfer-Encoding is chunked, and that of HTTP/1.1")
        if length is not None:
            return BadRequest("a request has Content-Length or Transfer-Encoding, not both")
    if length is not None and not _LENGTH.fullmatch(length):
        return BadRequest("the header Content-Length holds no length")
    return None
