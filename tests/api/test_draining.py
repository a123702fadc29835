"""A stop finishes what clients have begun, uploads too, and waits for nobody who is idle."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from proxy.demo import registry_of
from proxy.oci import Digest
from proxy.standin import StandIn
from tests.running import RunningProxy, running, settings_for

CONTENT = b"half of it, and the other half"


async def _connect(proxy: RunningProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _turn() -> None:
    """Let everything that can go on in this event loop do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_upload_that_is_under_way_is_finished_by_a_stop(proxy: RunningProxy) -> None:
    begun = await proxy.client.ask("POST", "/v2/app/blobs/uploads/")
    path = f"{begun.headers['Location']}?digest={Digest.of(CONTENT)}"
    reader, writer = await _connect(proxy)
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: proxy\r\n".encode())
    writer.write(f"Content-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT[:12])
    await writer.drain()
    # Answered after the first half of the upload has been read, on a connection of its own.
    await proxy.client.ask("GET", begun.headers["Location"])
    stopping = asyncio.create_task(proxy.stop(close_client=False))
    await _turn()
    writer.write(CONTENT[12:])
    reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in reply.lower()
    writer.close()
    await writer.wait_closed()
    await stopping


async def test_an_idle_connection_does_not_hold_a_stop_up(standin: StandIn, tmp_path: Path) -> None:
    patient = replace(
        settings_for(registry_of(standin), cache_dir=tmp_path), shutdown_timeout=3600.0
    )
    async with running(patient) as proxy:
        reader, writer = await _connect(proxy)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: proxy\r\n\r\n")
        await reader.readuntil(b'"ok"}')
        await proxy.stop(close_client=False)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
