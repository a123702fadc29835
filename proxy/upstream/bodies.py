"""Bodies of replies that are read whole, within a limit."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from typing import Final

import aiohttp

MAX_ERROR_BYTES: Final = 64 * 1024
_ERROR_BODY_SECONDS: Final = 5.0
_SHORTEST: Final = 6  # characters


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


def conceal(body: bytes, authorization: str | None) -> bytes:
    """A refusal's body without the credentials that were refused, should it repeat them.

    Of a Basic header neither what was sent nor the password in it.
    """
    scheme, _, token = (authorization or "").partition(" ")
    secrets = [token]
    if scheme.lower() == "basic":
        with suppress(ValueError):
            password = base64.b64decode(token, validate=True).decode().partition(":")[2]
            # A shorter one is a part of many words, which say more without their gaps.
            if len(password) >= _SHORTEST:
                secrets += [json.dumps(password)[1:-1], password]
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode(), b"(credentials)")
    return body
