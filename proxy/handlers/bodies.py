"""The bodies that clients send: taken as they come, and given up when they stop coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from proxy.errors import RegistryError

# The most that is taken in at once, in bytes.
_PIECE = 256 * 1024
# A client that sends nothing for so long is gone without a word, or has sent what cannot be parsed
# (aiohttp leaves a handler waiting for the rest of a chunked body whose framing is broken). Its
# upload is held for it, and nobody else could go on with that.
IDLE_SECONDS = 60.0


async def read_body(request: web.Request, broken: type[RegistryError]) -> AsyncIterator[bytes]:
    """The body in pieces; raises `broken` when it ends early, or stops coming."""
    pieces = request.content.iter_chunked(_PIECE)
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(pieces, b"")
        except web.RequestPayloadError as error:
            raise broken(f"the body broke off: {error}") from error
        except TimeoutError as error:
            raise broken(
                f"the body stopped coming: nothing for {IDLE_SECONDS:g} seconds"
            ) from error
        if not piece:
            return
        yield piece
