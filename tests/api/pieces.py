"""A request that is sent as bytes, piece by piece."""

from __future__ import annotations

import asyncio

from tests.running import RunningProxy


async def send(proxy: RunningProxy, *pieces: bytes) -> bytes:
    """The reply to bytes as they are, each sent after the one before was read; no more follow."""
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await proxy.client.ask("GET", "/livez")
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()
