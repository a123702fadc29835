"""A file that something else has changed is never served with a wrong length.

Damage that keeps the length is for the background verification to find, not for a reply.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for

SMALL = os.urandom(1000)
LARGE = os.urandom(3 * 1024 * 1024 + 17)
# More than the sockets of a reader who does not read can hold.
HUGE = os.urandom(32 * 1024 * 1024)


@pytest.fixture
def seeded(standin: StandIn) -> StandIn:
    for blob in (SMALL, LARGE):
        _put(standin, blob)
    return standin


def _put(standin: StandIn, blob: bytes) -> None:
    cache = Cache.of(blob)
    for part in cache.blobs:
        standin.state.put_blob("app", part)
    standin.state.put_manifest("app", cache.image_manifest, OCI_MANIFEST)


def _path(blob: bytes) -> str:
    return f"/v2/app/blobs/{Digest.of(blob)}"


def _file_of(proxy: RunningProxy, blob: bytes) -> Path:
    (file,) = proxy.settings.cache_dir.rglob(Digest.of(blob).hex)
    return file


def _downloads(standin: StandIn) -> int:
    return sum(r.server == "s3" and r.method == "GET" for r in standin.requests)


def _shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _lengthen(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"\0")


def _link(file: Path) -> None:
    """To a file of the right length, which does not make it ours."""
    other = file.with_name("elsewhere")
    other.write_bytes(os.urandom(file.stat().st_size))
    file.unlink()
    file.symlink_to(other)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = [_shorten, _empty, _lengthen, _link, _pipe, Path.unlink]


@pytest.mark.parametrize("range_", [None, "bytes=0-9", "bytes=-5"])
@pytest.mark.parametrize("blob", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_file_of_another_length_is_fetched_again(
    seeded: StandIn,
    proxy: RunningProxy,
    damage: Callable[[Path], None],
    blob: bytes,
    range_: str | None,
) -> None:
    await proxy.client.ask("GET", _path(blob))
    await proxy.until(Kind.STORED)
    damage(_file_of(proxy, blob))
    for _ in range(2):
        headers = {} if range_ is None else {"Range": range_}
        got = await proxy.client.ask("GET", _path(blob), headers=headers)
        assert got.body == {None: blob, "bytes=0-9": blob[:10], "bytes=-5": blob[-5:]}[range_]
        await proxy.until(Kind.STORED, 2)
    assert _downloads(seeded) == 2
    told = [event for event in proxy.told if event.kind is Kind.CORRUPT]
    assert [event.reference for event in told] == [Digest.of(blob)]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("damage", [_shorten, _lengthen])
async def test_a_file_that_was_damaged_before_the_start_is_fetched_again(
    seeded: StandIn, proxy: RunningProxy, damage: Callable[[Path], None], clean: bool
) -> None:
    await proxy.client.ask("GET", _path(LARGE))
    await proxy.stop()
    damage(_file_of(proxy, LARGE))
    if not clean:  # then nobody but upstream knows how long it was
        (proxy.settings.cache_dir / "checkpoint").unlink()
    await proxy.start()
    for _ in range(2):
        assert (await proxy.client.ask("GET", _path(LARGE))).body == LARGE
        await proxy.until(Kind.STORED, 2)
    assert _downloads(seeded) == 2


async def test_a_damaged_file_does_not_stay_in_place_of_what_is_pushed(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("GET", _path(LARGE))
    await proxy.stop()
    _shorten(_file_of(proxy, LARGE))
    await proxy.start()
    await proxy.client.push_blob("app", LARGE)
    assert (await proxy.client.ask("GET", _path(LARGE))).body == LARGE
    assert _downloads(seeded) == 1


async def test_a_file_that_can_neither_be_read_nor_removed_is_passed_by(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await proxy.client.ask("GET", _path(LARGE))
    await proxy.until(Kind.STORED)
    file = _file_of(proxy, LARGE)
    file.unlink()
    (file / "in-the-way").mkdir(parents=True)
    for _ in range(2):
        assert (await proxy.client.ask("GET", _path(LARGE))).body == LARGE
    file.joinpath("in-the-way").rmdir()
    file.rmdir()


class _SlowReader:
    """Asks for a blob, reads the head of the reply, and no more until told."""

    def __init__(self, proxy: RunningProxy, path: str) -> None:
        host, port = proxy.address.rsplit(":", 1)
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._address = (host, int(port))
        self._path = path

    async def begin(self) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, self._address)
        request = f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n"
        await loop.sock_sendall(self._socket, request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += await loop.sock_recv(self._socket, 1)
        return head

    async def read_on(self) -> bytes:
        """Everything up to the end of the connection, broken or not."""
        loop = asyncio.get_running_loop()
        body = bytearray()
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(self._socket, 1 << 20):
                body += piece
        return bytes(body)

    def leave(self) -> None:
        self._socket.close()


async def test_a_file_that_is_cut_while_it_is_sent_breaks_the_connection(
    standin: StandIn, proxy: RunningProxy
) -> None:
    _put(standin, HUGE)
    await proxy.client.ask("GET", _path(HUGE))
    await proxy.until(Kind.STORED)
    reader = _SlowReader(proxy, _path(HUGE))
    head = await reader.begin()
    assert f"content-length: {len(HUGE)}".encode() in head.lower()
    _shorten(_file_of(proxy, HUGE))
    body = await reader.read_on()
    assert len(body) < len(HUGE)
    assert body == HUGE[: len(body)]
    reader.leave()
    await proxy.until(Kind.CORRUPT)
    assert (await proxy.client.ask("GET", _path(HUGE))).body == HUGE


def _open_files(proxy: RunningProxy, blob: bytes) -> int:
    name = str(_file_of(proxy, blob))
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}") == name
        except FileNotFoundError:  # the one that lists them
            continue
    return count


async def test_a_reader_who_leaves_in_the_middle_leaves_no_file_open(
    standin: StandIn, proxy: RunningProxy
) -> None:
    _put(standin, HUGE)
    await proxy.client.ask("GET", _path(HUGE))
    await proxy.restart()  # so that no fill has it open
    reader = _SlowReader(proxy, _path(HUGE))
    await reader.begin()
    assert _open_files(proxy, HUGE) == 1
    reader.leave()
    while _open_files(proxy, HUGE):
        await proxy.client.ask("GET", "/livez")


async def test_a_reply_that_is_cancelled_in_the_middle_leaves_no_file_open(
    standin: StandIn, tmp_path: Path
) -> None:
    _put(standin, HUGE)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(replace(settings, shutdown_timeout=0)) as proxy:
        await proxy.client.ask("GET", _path(HUGE))
        await proxy.restart()
        reader = _SlowReader(proxy, _path(HUGE))
        await reader.begin()
        assert _open_files(proxy, HUGE) == 1
        await proxy.stop()
        assert _open_files(proxy, HUGE) == 0
        reader.leave()
