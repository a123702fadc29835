"""What of aiohttp's inside a connection leans on."""

from __future__ import annotations

import inspect
import logging
import re

from aiohttp import base_protocol, web, web_protocol
from aiohttp.web_log import AccessLogger

from proxy.handlers.connections import Connection, Patience
from proxy.handlers.parsing import StrictParser
from proxy.refusals import Refusals


async def test_what_a_connection_uses_of_aiohttps_own_is_there() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("nothing is asked")

    connection = Connection(
        web.Server(handle),
        patience=Patience(max_header_size=8192, header_timeout=1.0, idle_timeout=1.0),
        refusals=Refusals(),
        closed=lambda: None,
        access_log=logging.getLogger("test"),
        access_log_class=AccessLogger,
    )
    assert type(connection._parser).__name__ == StrictParser.__name__
    assert connection._waiter is None
    # The strict parser has all that aiohttp asks of its own one on the server's side.
    source = inspect.getsource(base_protocol) + inspect.getsource(web_protocol)
    asked = set(re.findall(r"self\._parser\.(\w+)", source))
    assert "feed_data" in asked
    assert asked <= set(dir(StrictParser))
    # And the future is still what says that a connection waits for a request.
    idle = inspect.getsource(web.RequestHandler._process_keepalive)
    assert "self._waiter and not self._waiter.done()" in idle
