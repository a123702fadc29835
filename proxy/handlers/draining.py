"""The requests that are under way, which a stop waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler


class Draining:
    """Knows which requests are under way, so that a stop can wait for them.

    aiohttp's own shutdown drops what clients send while it waits, so an upload in flight could
    never be finished by it.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._began = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    def watch(self, app: web.Application) -> None:
        """Count the requests of an application; to be called before it has other middlewares."""
        app.middlewares.append(self._count)
        app.on_response_prepare.append(self._send_away)

    async def finish(self, seconds: float) -> None:
        """Wait until no request is under way, at most so long; each one is its client's last."""
        self._began = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._requests += 1
        self._quiet.clear()
        try:
            return await handler(request)
        finally:
            self._requests -= 1
            if self._requests == 0:
                self._quiet.set()

    async def _send_away(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._began:
            response.force_close()
            response.headers["Connection"] = "close"
