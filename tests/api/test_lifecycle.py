"""Starting, stopping while clients are served, and what it takes of memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.app import StartError
from proxy.demo import registry_of
from proxy.oci import Digest
from proxy.standin import Fault, StandIn
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for

BLOB = bytes(range(256)) * 8192
PATH = f"/v2/app/blobs/{Digest.of(BLOB)}"


@pytest.fixture
async def seeded(standin: StandIn) -> StandIn:
    cache = Cache.of(BLOB)
    cache.seed(standin, "app", "cache")
    return standin


async def test_a_stop_lets_a_running_download_finish_and_takes_no_new_client(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    held = seeded.faults.add(Fault(server="s3", method="GET", hold_at=1_000_000))
    download = asyncio.create_task(proxy.client.ask("GET", PATH))
    await held.reached.wait()
    stopping = asyncio.create_task(proxy.stop(close_client=False))
    await _turn()
    host, _, port = proxy.address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    held.release()
    assert (await download).body == BLOB
    await stopping


async def test_a_stop_waits_no_longer_than_it_is_told(seeded: StandIn, tmp_path: Path) -> None:
    settings = replace(settings_for(registry_of(seeded), cache_dir=tmp_path), shutdown_timeout=0.1)
    held = seeded.faults.add(Fault(server="s3", method="GET", hold_at=1_000_000))
    async with running(settings) as proxy:
        download = asyncio.create_task(proxy.client.ask("GET", PATH))
        await held.reached.wait()
        await proxy.stop(close_client=False)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await download


async def test_an_address_in_use_is_named_at_the_start(proxy: RunningProxy, tmp_path: Path) -> None:
    port = int(proxy.address.rpartition(":")[2])
    settings = replace(proxy.settings, port=port, cache_dir=tmp_path / "second")
    with pytest.raises(StartError, match=f"127.0.0.1:{port}.*--listen"):
        async with running(settings):
            pass


async def test_a_cache_directory_in_use_is_named_at_the_start(proxy: RunningProxy) -> None:
    with pytest.raises(StartError, match=r"in use.*--cache-dir|owned by|process"):
        async with running(proxy.settings):
            pass


async def _turn() -> None:
    """Let everything that is ready run: the listening socket is closed by then."""
    for _ in range(20):
        await asyncio.sleep(0)
