"""Requests as bytes on a socket, for what no HTTP client would send."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser


@dataclass(frozen=True, slots=True)
class Reply:
    """The first reply in what a server sent, and what came behind it."""

    status: int
    headers: Message
    body: bytes
    rest: bytes

    @property
    def code(self) -> str:
        """The registry's code of an error; raises `ValueError` where the body is none."""
        (error,) = json.loads(self.body)["errors"]
        return str(error["code"])


def parse_reply(content: bytes) -> Reply:
    """Raises `AssertionError` where it is no whole reply."""
    head, end, body = content.partition(b"\r\n\r\n")
    assert end, f"no whole head: {content[:200]!r}"
    line, _, fields = head.partition(b"\r\n")
    headers = BytesParser().parsebytes(fields + b"\r\n\r\n", headersonly=True)
    length = int(headers["Content-Length"] or 0)
    assert len(body) >= length, f"{len(body)} of {length} bytes"
    return Reply(int(line.split(b" ", 2)[1]), headers, body[:length], body[length:])


class Wire:
    """A connection; close it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str, *, context: ssl.SSLContext | None = None) -> Wire:
        """To `host:port`; with a context over TLS, by the name localhost."""
        host, _, port = address.rpartition(":")
        name = None if context is None else "localhost"
        return cls(
            *await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=name
            )
        )

    def send(self, content: bytes) -> None:
        self.writer.write(content)

    async def one_reply(self) -> Reply:
        """The next reply, with its body; the connection may go on."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(parse_reply(head.replace(b"ontent-Length", b"L")).headers["CL"] or 0)
        return parse_reply(head + await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection."""
        return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def exchange(address: str, content: bytes, *, context: ssl.SSLContext | None = None) -> bytes:
    """Send, and read until the server ends the connection."""
    wire = await Wire.open(address, context=context)
    try:
        wire.send(content)
        return await wire.rest()
    finally:
        await wire.close()
