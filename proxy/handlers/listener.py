"""Listening sockets, and what accepts from them; not what becomes of a connection."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_AT_ONCE: Final = 32  # connections that wait and are taken before others have their turn
_PAUSE_SECONDS: Final = 1.0  # asyncio's own, when the system has no descriptor left
_REPEAT_SECONDS: Final = 60.0
# A name may stand for addresses of a family that this machine does not have.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


async def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a host, all on one port; raises `OSError`.

    Port 0 takes a free one. Close them.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP
    )
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(infos):
            try:
                one = _bind(family, address, bound[0].getsockname()[1] if bound else port)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                bound.append(one)
    except BaseException:
        for one in bound:
            one.close()
        raise
    if missing is not None and not bound:
        raise missing
    return bound


def _bind(family: int, address: tuple[Any, ...], port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own where the host stands for both.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address[0], port, *address[2:]))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """Accepts connections until it is closed, whatever the system says to that meanwhile.

    It owns the sockets; `take` gets each connection with its peer's address, and must not wait.
    `pause_seconds` is how long it leaves them alone when one cannot be accepted, for the want of
    descriptors mostly.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        take: Callable[[socket.socket, str], None],
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._sockets = sockets
        self._take = take
        self._pause = pause_seconds
        self._complained = -_REPEAT_SECONDS
        self._loop = asyncio.get_running_loop()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        for one in sockets:
            self._watch(one)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Take no new connections; those that are there are not touched."""
        for pause in self._pauses.values():
            pause.cancel()
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()

    def _watch(self, listening: socket.socket) -> None:
        self._loop.add_reader(listening, self._accept_from, listening)

    def _accept_from(self, listening: socket.socket) -> None:
        """Take what waits. The event loop's `sock_accept` loses one that comes as it is cancelled,
        with a traceback.
        """
        for _ in range(_AT_ONCE):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # the client has gone while it waited
            except OSError as error:
                self._complain(error)
                self._loop.remove_reader(listening)
                self._pauses[listening] = self._loop.call_later(self._pause, self._watch, listening)
                return
            connection.setblocking(False)
            self._take(connection, address[0])

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained < _REPEAT_SECONDS:
            return
        self._complained = now
        _log.warning(
            "no connection can be accepted: %s; they wait until that has passed (too few file "
            "descriptors are mended by a higher limit, LimitNOFILE of systemd, or a lower "
            "max-connections)",
            error.strerror or error,
        )
