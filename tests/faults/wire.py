"""A client on a bare socket: it takes what it wants when it wants to, which a library would not."""

from __future__ import annotations

import asyncio
import re
import socket
from types import TracebackType
from typing import Self

from tests.faults.content import KIB, path_of

_PIECE = 256 * KIB


class Download:
    """A GET of a blob, of which nothing is read but on demand. Close it, at any time.

    `status` and `length`, in bytes, are known once `read_head` has returned.
    """

    def __init__(self, address: str, digest: str, span: tuple[int, int] | None = None) -> None:
        """`span`: first byte and the one after the last that are asked for."""
        self.status = 0
        self.length = 0
        self._address = address
        self._request = f"GET {path_of(digest)} HTTP/1.1\r\nHost: {address}\r\n"
        if span is not None:
            self._request += f"Range: bytes={span[0]}-{span[1] - 1}\r\n"
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._buffer = bytearray(_PIECE)
        self._early = b""

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, (host, int(port)))
        await loop.sock_sendall(self._socket, f"{self._request}\r\n".encode())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def read_head(self) -> None:
        loop = asyncio.get_running_loop()
        head = b""
        while b"\r\n\r\n" not in head:
            more = await loop.sock_recv(self._socket, 4 * KIB)
            assert more, f"the connection ended in the head of a reply: {head!r}"
            head += more
        head, _, self._early = head.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        found = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
        assert found, head
        self.length = int(found[1])

    async def read(self) -> memoryview:
        """What has come of the body, good until the next call; nothing at its end or a break."""
        if self._early:
            early, self._early = self._early, b""
            return memoryview(early)
        loop = asyncio.get_running_loop()
        try:
            count = await loop.sock_recv_into(self._socket, self._buffer)
        except ConnectionError:
            count = 0
        return memoryview(self._buffer)[:count]
