"""The socket of a running proxy, and what it does of itself for what is on its disk."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import Timing
from proxy.cache import BlobStore
from proxy.demo import registry_of
from proxy.events import Events, Kind
from proxy.handlers.control import listening
from proxy.oci import Digest
from proxy.services.upkeep import Messages, Rounds, Upkeep
from proxy.standin import StandIn
from proxy.unix_socket import short_path
from tests.caches import Cache
from tests.filled import ROOMY, damage, put
from tests.running import RunningProxy, running, settings_for

BLOB = os.urandom(1024 * 1024)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/app/blobs/{DIGEST}"
NO_PAUSE = Rounds(first=0.0, every=0.0)


@pytest.fixture
async def seeded(standin: StandIn) -> StandIn:
    cache = Cache.of(BLOB)
    cache.seed(standin, "app", "cache")
    return standin


def socket_of(proxy: RunningProxy) -> Path:
    return proxy.settings.cache_dir / "control.sock"


@asynccontextmanager
async def asked(
    path: Path, operation: str, arguments: object
) -> AsyncIterator[aiohttp.ClientResponse]:
    with short_path(str(path)) as short:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(short)) as session,
            session.post(f"http://proxy/{operation}", json=arguments) as response,
        ):
            yield response


async def ask(path: Path, operation: str, **arguments: object) -> list[dict[str, Any]]:
    async with asked(path, operation, arguments) as response:
        assert response.status == 200, await response.text()
        return [json.loads(line) async for line in response.content]


async def test_each_message_is_a_line(seeded: StandIn, proxy: RunningProxy) -> None:
    await proxy.client.ask("GET", PATH)
    await proxy.until(Kind.STORED)
    path = socket_of(proxy)
    (page,) = await ask(path, "ls")
    assert [blob["digest"] for blob in page["blobs"]] == [DIGEST]
    *_, verified = await ask(path, "verify", rate=0)
    assert verified["verified"] == {"blobs": 1, "size": len(BLOB), "damaged": 0}
    other = Digest.of(b"not there")
    removed = await ask(path, "rm", digests=[DIGEST, other])
    assert removed == [{"removed": DIGEST}, {"missing": other}]
    (stats,) = await ask(path, "stats")
    assert stats["usage"]["blobs"] == 0


async def test_a_command_that_makes_no_sense_is_refused(proxy: RunningProxy) -> None:
    for operation, arguments in [("format", {}), ("verify", {"rate": "x"}), ("ls", [1])]:
        async with asked(socket_of(proxy), operation, arguments) as response:
            assert response.status == 400
            assert set(await response.json()) == {"error"}


async def test_only_this_user_can_connect_and_a_stop_removes_the_socket(
    proxy: RunningProxy,
) -> None:
    status = socket_of(proxy).stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(proxy.settings.cache_dir.stat().st_mode) == 0o700
    await proxy.stop()
    assert not socket_of(proxy).exists()


async def test_the_socket_of_a_process_that_was_killed_is_replaced(
    standin: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left, short_path(f"{tmp_path}/cache/control.sock") as at:
        left.bind(at)
    async with running(settings_for(registry_of(standin), cache_dir=tmp_path / "cache")) as proxy:
        (stats,) = await ask(socket_of(proxy), "stats")
        # What it left is no stray file either.
        assert stats["usage"]["unknown"] == 0


async def test_a_directory_may_lie_deeper_than_an_address_of_a_socket_reaches(
    standin: StandIn, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 150) / "cache"
    async with running(settings_for(registry_of(standin), cache_dir=deep)) as proxy:
        assert await ask(socket_of(proxy), "stats")


async def test_a_proxy_that_can_have_no_socket_says_so_and_serves(
    seeded: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Something else is in the way, and is not the proxy's to remove.
    (tmp_path / "control.sock").mkdir()
    with caplog.at_level(logging.WARNING):
        async with running(settings_for(registry_of(seeded), cache_dir=tmp_path)) as proxy:
            assert (await proxy.client.ask("GET", PATH)).body == BLOB
    assert "control.sock: Address already in use" in caplog.text
    assert (tmp_path / "control.sock").is_dir()


class _Watched(Upkeep):
    """Tells when an operation has ended, however it did."""

    def __init__(self, store: BlobStore) -> None:
        super().__init__(store)
        self.ended = asyncio.Event()

    def perform(self, operation: str, arguments: object) -> Messages:
        return self._watch(super().perform(operation, arguments))

    async def _watch(self, messages: Messages) -> Messages:
        try:
            async with aclosing(messages):
                async for message in messages:
                    yield message
        finally:
            self.ended.set()


async def test_a_client_that_goes_away_ends_its_verify(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path, budget=ROOMY, events=Events())
    digest = await put(store, BLOB)
    watched = _Watched(store)
    async with listening(watched, str(tmp_path / "control.sock")):
        async with asked(tmp_path / "control.sock", "verify", {"rate": 1}) as response:
            assert json.loads(await response.content.readline()) == {"total": len(BLOB)}
            assert not watched.ended.is_set()
        await watched.ended.wait()
        # Nothing of it is left: the blob is not in use.
        *_, pruned = await ask(tmp_path / "control.sock", "prune", to="0")
        assert pruned["pruned"]["enough"]
        assert not store.contains(digest)
    await store.close()


async def test_a_stop_does_not_wait_for_a_verify(seeded: StandIn, proxy: RunningProxy) -> None:
    await proxy.client.ask("GET", PATH)
    await proxy.until(Kind.STORED)
    async with asked(socket_of(proxy), "verify", {"rate": 1}) as response:
        await response.content.readline()
        await proxy.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_the_background_finds_damage_and_the_blob_is_fetched_again(
    seeded: StandIn, tmp_path: Path
) -> None:
    settings = replace(settings_for(registry_of(seeded), cache_dir=tmp_path), verify_rate=ROOMY)
    async with running(settings, timing=Timing(rounds=NO_PAUSE)) as proxy:
        await proxy.client.ask("GET", PATH)
        await proxy.until(Kind.STORED)
        damage(tmp_path, DIGEST)
        await proxy.until(Kind.CORRUPT)
        assert (await proxy.client.ask("GET", PATH)).body == BLOB
    downloads = [r for r in seeded.requests if r.server == "s3" and r.method == "GET"]
    assert len(downloads) == 2


async def test_without_a_rate_the_background_reads_nothing(seeded: StandIn, tmp_path: Path) -> None:
    settings = replace(settings_for(registry_of(seeded), cache_dir=tmp_path), verify_rate=0)
    async with running(settings, timing=Timing(rounds=NO_PAUSE)) as proxy:
        await proxy.client.ask("GET", PATH)
        await proxy.until(Kind.STORED)
        damage(tmp_path, DIGEST)
        for _ in range(20):
            await proxy.client.ask("GET", "/livez")
        *_, verified = await ask(socket_of(proxy), "verify", rate=0)
        assert verified["verified"]["damaged"] == 1
