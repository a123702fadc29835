"""Bodies of replies that are read whole, within a limit."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

MAX_ERROR_BYTES: Final = 64 * 1024
_ERROR_BODY_SECONDS: Final = 5.0


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or one byte more than `limit` of it."""
    pieces, size = [], 0
    async for chunk in response.content.iter_any():
        pieces.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(pieces)[: limit + 1]


async def read_quietly(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, as much as there is: its status stands without it."""
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            return await read_body(response, MAX_ERROR_BYTES)
    except (aiohttp.ClientError, OSError):
        return b""
    finally:
        response.close()  # nothing to close once the body has been read to its end
