"""Small requests as fast as a server answers them.

Not wrk, which waits for a body after the reply to a HEAD.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from tests.bench.wire import Connection, request_bytes

_PATIENCE: Final = 5.0


class _Asker:
    """One connection that asks the same again and again, and knows how long each reply is."""

    def __init__(self, address: tuple[str, int], request: bytes, length: int) -> None:
        self.socket = socket.create_connection(address, _PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._length = length  # of a body
        self._left = -1  # of the body that is coming; negative while the head is
        self._head = b""

    def ask(self) -> None:
        self._left, self._head = -1, b""
        self.socket.sendall(self._request)

    def take(self) -> bool:
        """Read what is there; whether it was the end of a reply."""
        data = self.socket.recv(64 * 1024)
        if not data:
            raise ConnectionError("the server closed a connection that it should keep")
        if self._left >= 0:
            self._left -= len(data)
            return self._left <= 0
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        if self._head[9:12] != b"200":
            raise AssertionError(self._head.decode("latin-1"))
        self._left = self._length - (len(self._head) - end - 4)
        return self._left <= 0


def replies_per_second(
    url: str, path: str, *, method: str, headers: Mapping[str, str], seconds: float, clients: int
) -> float:
    """How many replies so many connections get, each asking anew when it is answered."""
    parts = urlsplit(url)
    with Connection(url) as connection:
        length = connection.ask(method, path, headers).length
    request = request_bytes(method, path, parts.netloc, headers)
    address = (parts.hostname or "", parts.port or 80)
    askers = [_Asker(address, request, length) for _ in range(clients)]
    try:
        with selectors.DefaultSelector() as selector:
            for asker in askers:
                selector.register(asker.socket, selectors.EVENT_READ, asker)
                asker.ask()
            return _count(selector, seconds) / seconds
    finally:
        for asker in askers:
            asker.socket.close()


def _count(selector: selectors.BaseSelector, seconds: float) -> int:
    count = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        events = selector.select(_PATIENCE)
        if not events:
            raise TimeoutError("no reply")
        for key, _ in events:
            asker: _Asker = key.data
            if asker.take():
                count += 1
                asker.ask()
    return count
