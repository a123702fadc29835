"""How many connections a client may have, and how long each may take."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import LimitSettings
from proxy.demo import registry_of
from proxy.handlers import admission
from proxy.oci import Digest
from proxy.refusals import Reason
from proxy.standin import StandIn
from tests.caches import Cache
from tests.raw import Wire, exchange, parse_reply
from tests.running import RunningProxy, running, settings_for

PING = b"GET /v2/ HTTP/1.1\r\nHost: proxy\r\n\r\n"
HALF = PING[:20]
SOON = 0.05
LARGE = bytes(range(256)) * 65536  # 16 MiB: more than the system buffers for a socket


@asynccontextmanager
async def limited(
    standin: StandIn, folder: Path, limits: LimitSettings
) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=folder)
    async with running(replace(settings, limits=limits)) as proxy:
        yield proxy


async def _pinged(proxy: RunningProxy) -> Wire:
    """A connection that has been accepted."""
    wire = await Wire.open(proxy.address)
    wire.send(PING)
    assert (await wire.one_reply()).status == 200
    return wire


async def _refused(proxy: RunningProxy, reason: Reason) -> float:
    """How often that has been counted."""
    metrics = (await proxy.client.ask("GET", "/metrics")).body.decode()
    name = f'ecr_cache_proxy_refusals_total{{reason="{reason}"}} '
    return float(metrics.partition(name)[2].partition("\n")[0])


@pytest.mark.parametrize(
    ("limits", "status", "code", "setting", "reason"),
    [
        (
            LimitSettings(max_connections_per_client=2),
            *(429, "TOOMANYREQUESTS", "max-connections-per-client", Reason.CONNECTIONS_PER_CLIENT),
        ),
        (
            LimitSettings(max_connections=2),
            *(503, "UNAVAILABLE", "max-connections)", Reason.CONNECTIONS),
        ),
    ],
    ids=["one client", "all"],
)
async def test_a_connection_too_many_is_told_so_and_there_is_room_again_when_one_ends(
    standin: StandIn,
    tmp_path: Path,
    limits: LimitSettings,
    status: int,
    code: str,
    setting: str,
    reason: Reason,
) -> None:
    async with limited(standin, tmp_path, limits) as proxy:
        first, second = await _pinged(proxy), await _pinged(proxy)
        reply = parse_reply(await exchange(proxy.address, PING))
        assert (reply.status, reply.code) == (status, code)
        assert reply.headers["Connection"] == "close"
        assert reply.headers["Retry-After"] == "1"
        assert setting in reply.body.decode()
        head = await exchange(proxy.address, PING.replace(b"GET", b"HEAD"))
        assert head.endswith(b"\r\n\r\n")
        # Those that are there go on.
        first.send(PING)
        assert (await first.one_reply()).status == 200
        await first.close()
        while parse_reply(await exchange(proxy.address, _last(PING))).status != 200:
            pass
        await second.close()
        assert await _refused(proxy, reason) >= 2


def _last(request: bytes) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def test_who_is_turned_away_and_asks_nothing_is_not_kept(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_PATIENCE_SECONDS", SOON)
    async with limited(standin, tmp_path, LimitSettings(max_connections=1)) as proxy:
        first = await _pinged(proxy)
        assert await exchange(proxy.address, b"") == b""
        await first.close()


async def test_a_head_that_does_not_come_in_time_is_answered_and_the_connection_ends(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(header_timeout=SOON)) as proxy:
        reply = parse_reply(await exchange(proxy.address, HALF))
        assert (reply.status, reply.code) == (408, "UNSUPPORTED")
        assert reply.headers["Connection"] == "close"
        assert "header-timeout" in reply.body.decode()
        assert await _refused(proxy, Reason.HEADER_TIMEOUT) == 1


async def test_one_byte_after_the_other_does_not_gain_time(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(header_timeout=SOON)) as proxy:
        wire = await Wire.open(proxy.address)
        wire.send(HALF)
        reply = asyncio.create_task(wire.rest())
        while not reply.done():
            wire.send(b"x")
            await asyncio.wait([reply], timeout=SOON / 10)
        assert parse_reply(await reply).status == 408
        await wire.close()


async def test_the_head_of_a_further_request_has_its_own_time(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(header_timeout=SOON)) as proxy:
        wire = await _pinged(proxy)
        wire.send(HALF)
        assert parse_reply(await wire.rest()).status == 408
        await wire.close()


async def test_who_connects_and_says_nothing_is_let_go_without_a_word(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(header_timeout=SOON)) as proxy:
        assert await exchange(proxy.address, b"") == b""
        assert await _refused(proxy, Reason.HEADER_TIMEOUT) == 1


async def test_the_time_for_a_head_is_none_for_bodies_nor_for_being_idle(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(header_timeout=SOON)) as proxy:
        idle = await _pinged(proxy)
        begun = await proxy.client.ask("POST", "/v2/app/blobs/uploads/")
        upload = await Wire.open(proxy.address)
        upload.send(
            f"PATCH {begun.headers['Location']} HTTP/1.1\r\nHost: proxy\r\n"
            "Content-Length: 4\r\n\r\nha".encode()
        )
        # Two that came later are let go: the time of the others would be over too.
        for _ in range(2):
            assert await exchange(proxy.address, b"") == b""
        upload.send(b"lf")
        assert (await upload.one_reply()).status == 202
        idle.send(PING)
        assert (await idle.one_reply()).status == 200
        await upload.close()
        await idle.close()


async def test_an_idle_connection_ends_after_its_time_without_a_word(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, LimitSettings(idle_timeout=SOON)) as proxy:
        wire = await _pinged(proxy)
        assert await wire.rest() == b""
        await wire.close()


async def test_a_client_that_reads_nothing_is_given_up(standin: StandIn, tmp_path: Path) -> None:
    cache = Cache.of(LARGE)
    cache.seed(standin, "app", "cache")
    async with limited(standin, tmp_path, LimitSettings(send_timeout=SOON)) as proxy:
        path = f"/v2/app/blobs/{Digest.of(LARGE)}"
        assert (await proxy.client.ask("GET", path)).body == LARGE
        for times in (1, 2):  # a file from disk each time, since the first is there now
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            host, _, port = proxy.address.rpartition(":")
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            while await _refused(proxy, Reason.SEND_TIMEOUT) < times:
                pass
            client.close()
