"""A client on bare sockets: it sees each byte that comes, and where a connection breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.canaries.watch import WATCH

_PIECE = 64 * 1024
# A client that waits longer has been forgotten: nothing here takes more than a few seconds.
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as far as it came; `is_whole`: as far as its Content-Length says."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_whole(self) -> bool:
        return len(self.body) == self.length

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))


async def ask(
    port: int,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] = b"",
    leave_after: int | None = None,
) -> Reply:
    """A request on a connection of its own; a body that is no bytes is sent chunked.

    `leave_after`: hang up after so many bytes of the reply's body. Raises `ConnectionError` when
    the connection breaks before the reply's head is there.
    """
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await _send(writer, method, target, headers or {}, body)
            return await _receive(reader, leave_after)
        finally:
            writer.transport.abort()


async def _send(
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes],
) -> None:
    parts = urlsplit(target)  # a location may name a port that is no more
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    sized = isinstance(body, bytes)
    framing = f"Content-Length: {len(body)}" if isinstance(body, bytes) else _CHUNKED
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", framing]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    # A server that refuses a body may have hung up on it, and its reply be there all the same.
    with suppress(ConnectionError):
        for piece in _pieces(body) if isinstance(body, bytes) else body:
            writer.write(piece if sized else b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if not sized:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


_CHUNKED = "Transfer-Encoding: chunked"


def _pieces(body: bytes) -> Iterable[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


async def _receive(reader: asyncio.StreamReader, leave_after: int | None) -> Reply:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the connection was closed before the reply") from error
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    reply = Reply(int(status.split()[1]), headers, b"")
    wanted = reply.length if leave_after is None else min(leave_after, reply.length)
    body = bytearray()
    # Broken off, which the caller sees by the length.
    with suppress(ConnectionError):
        while len(body) < wanted:
            piece = await reader.read(min(_PIECE, wanted - len(body)))
            if not piece:
                break
            body += piece
    WATCH.see_reply(reply.status, headers, bytes(body))
    return Reply(reply.status, headers, bytes(body))
