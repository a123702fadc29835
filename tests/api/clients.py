"""Clients that have logged in, and requests as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.access.files import basic
from tests.running import Client, RunningProxy


@asynccontextmanager
async def logged_in(proxy: RunningProxy, user: str, password: str) -> AsyncIterator[Client]:
    headers = {"Authorization": basic(user, password)}
    client = Client(f"http://{proxy.address}", headers=headers)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def connection(
    proxy: RunningProxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
