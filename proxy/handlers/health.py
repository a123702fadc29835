"""Whether the proxy is alive, and whether it can do its work."""

from __future__ import annotations

import json

from aiohttp import web

from proxy.handlers.replies import reply
from proxy.services.registries import Registries


class HealthHandlers:
    """`/livez` says that the process answers, `/readyz` that every registry can be reached for."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/livez", self.live)
        app.router.add_get("/readyz", self.ready)

    async def live(self, request: web.Request) -> web.StreamResponse:
        return reply(body=b'{"status":"ok"}')

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """503 while a registry has no usable credentials: pulls and pushes there would fail."""
        problems = {
            registry.name: problem
            for registry in self._registries.all()
            if (problem := registry.credentials_problem()) is not None
        }
        content = {"status": "unavailable" if problems else "ok", "registries": problems}
        return reply(503 if problems else 200, body=json.dumps(content).encode())
