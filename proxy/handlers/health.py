"""Whether the proxy is alive, and whether it can do its work."""

from __future__ import annotations

import json
import logging

from aiohttp import web

from proxy.access import Action, Rules
from proxy.handlers.authentication import identity_of, is_let_in
from proxy.handlers.replies import reply
from proxy.services.registries import Registries

_log = logging.getLogger(__name__)


class HealthHandlers:
    """`/livez` says that the process answers, `/readyz` that every registry can be reached for."""

    def __init__(self, registries: Registries, rules: Rules) -> None:
        self._registries = registries
        self._rules = rules
        self._told: dict[str, str] = {}

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/livez", self.live)
        app.router.add_get("/readyz", self.ready)

    async def live(self, request: web.Request) -> web.StreamResponse:
        return reply(body=b'{"status":"ok"}')

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """503 while a registry has no usable credentials: pulls and pushes there would fail.

        Why is for the log, and for clients that are let in and may do something there.
        """
        problems = {
            registry.name: problem
            for registry in self._registries.all()
            if (problem := registry.credentials_problem()) is not None
        }
        if problems and problems != self._told:
            for name, problem in problems.items():
                _log.warning("not ready: %s: %s", name, problem)
        self._told = problems
        content: dict[str, object] = {"status": "unavailable" if problems else "ok"}
        if is_let_in(request):
            user = identity_of(request)
            content["registries"] = {
                name: problem
                for name, problem in problems.items()
                if self._rules.allows_some(user, name, *Action)
            }
        return reply(503 if problems else 200, body=json.dumps(content).encode())
