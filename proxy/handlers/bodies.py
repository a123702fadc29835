"""The bodies that clients send: taken as they come, and given up when they stop coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from proxy.errors import RegistryError
from proxy.handlers.expectation import proceed
from proxy.refusals import Reason, Refusals

# The most that is taken in at once, in bytes.
_PIECE = 256 * 1024


class Bodies:
    """Reads bodies, none of which may stand still for `timeout` seconds.

    A client that sends nothing for so long is gone without a word, or has sent what cannot be
    parsed (aiohttp leaves a handler waiting for the rest of a chunked body whose framing is
    broken). Its upload is held for it, and nobody else could go on with that.

    A body that drips is not given up: on a bad line it may be an honest one. It costs a connection
    and an upload, of which a client has only so many, and the room of what it has sent. What it has
    not sent of a part takes up of what may run ahead of upstream, where the others go on one after
    the other then (`Uplink.admit`), and what is whole goes up at once.
    """

    def __init__(self, refusals: Refusals, *, timeout: float) -> None:
        self._refusals = refusals
        self._timeout = timeout

    async def read(self, request: web.Request, broken: type[RegistryError]) -> AsyncIterator[bytes]:
        """The body in pieces; raises `broken` when it ends early, or stops coming."""
        await proceed(request)
        pieces = request.content.iter_chunked(_PIECE)
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    piece = await anext(pieces, b"")
            except (web.RequestPayloadError, ConnectionError) as error:
                raise broken(f"the body broke off: {error}") from error
            except TimeoutError as error:
                self._refusals.count(Reason.BODY_TIMEOUT)
                raise broken(
                    f"the body stopped coming: nothing for {self._timeout:g} seconds, which is "
                    "as long as body-timeout allows"
                ) from error
            if not piece:
                return
            yield piece
