"""What the proxy has done and holds, for Prometheus to fetch."""

from __future__ import annotations

from aiohttp import web

from proxy.handlers.replies import reply
from proxy.metrics import Metrics


class MetricsHandlers:
    """`/metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/metrics", self.show)

    async def show(self, request: web.Request) -> web.StreamResponse:
        return reply(body=self._metrics.render(), content_type=self._metrics.content_type)
