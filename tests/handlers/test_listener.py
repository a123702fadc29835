"""Listening on the addresses of a host, and what accepting does when the system refuses."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.handlers.listener import Listener, bind


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_every_address_of_a_host_has_the_same_port(host: str) -> None:
    sockets = await bind(host, 0)
    taken: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()
    listener = Listener(sockets, lambda *one: taken.put_nowait(one))
    port = listener.address[1]
    for listening in sockets:
        assert listening.getsockname()[1] == port
        _, writer = await asyncio.open_connection(listening.getsockname()[0], port)
        connection, address = await taken.get()
        assert address == listening.getsockname()[0]
        connection.close()
        writer.close()
        await writer.wait_closed()
    listener.close()


async def test_all_that_wait_are_taken_and_none_that_comes_as_it_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sockets = await bind("127.0.0.1", 0)
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = Listener(sockets, lambda one, _: taken.put_nowait(one))
    address = listener.address
    clients = [socket.create_connection(address) for _ in range(100)]
    for _ in clients:
        (await taken.get()).close()
    late = socket.create_connection(address)
    listener.close()
    with pytest.raises(ConnectionResetError):
        late.recv(1)
    assert taken.empty()
    assert not caplog.records
    for client in (*clients, late):
        client.close()


async def test_a_host_that_is_none_of_this_machines_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        await bind("192.0.2.1", 0)


async def test_a_port_in_use_is_an_error_and_leaves_nothing_open() -> None:
    sockets = await bind("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await bind("127.0.0.1", sockets[0].getsockname()[1])
    sockets[0].close()


class _Troubled(Listener):
    """Says when the system has refused for the third time."""

    def __init__(self, sockets: list[socket.socket], taken: asyncio.Queue[socket.socket]) -> None:
        self.refused = 0
        self.thrice = asyncio.Event()
        super().__init__(sockets, lambda one, _: taken.put_nowait(one), pause_seconds=0.001)

    def _complain(self, error: OSError) -> None:
        super()._complain(error)
        self.refused += 1
        if self.refused == 3:
            self.thrice.set()


@contextmanager
def _no_descriptors() -> Iterator[None]:
    """The process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_without_descriptors_it_pauses_says_so_once_and_goes_on_when_there_are_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = _Troubled(await bind("127.0.0.1", 0), taken)
    client = socket.socket()
    client.setblocking(False)
    with _no_descriptors():
        await asyncio.get_running_loop().sock_connect(client, listener.address)
        await listener.thrice.wait()
        assert taken.empty()
    (await taken.get()).close()
    listener.close()
    client.close()
    (message,) = (record.getMessage() for record in caplog.records)
    assert "Too many open files" in message
    assert "LimitNOFILE" in message
