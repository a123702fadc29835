"""The socket over which the command line asks a running proxy to look after its cache.

`POST /OPERATION` with its arguments as JSON is answered with a stream of messages, one JSON object
a line, as they come. It is for programs of this version and this user on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from aiohttp import web

from proxy.services.upkeep import Upkeep
from proxy.unix_socket import short_path

_log = logging.getLogger(__name__)

# As many digests to remove as a command line holds.
_MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
# For the last messages as the proxy ends.
_FLUSH_SECONDS: Final = 0.25


@asynccontextmanager
async def listening(upkeep: Upkeep, path: str) -> AsyncIterator[None]:
    """Take commands on a Unix socket while the context lasts; the directory is this process's own.

    Where there can be none, the proxy does without: that is logged.
    """
    app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
    app.router.add_post("/{operation}", _Control(upkeep).perform)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # who interrupts a command does not want its work done
        shutdown_timeout=_FLUSH_SECONDS,
    )
    await runner.setup()
    try:
        try:
            bound = _bind(path)
            await web.SockSite(runner, bound).start()
        except OSError as error:
            _log.warning(
                "cannot listen on %s: %s; the cache commands will only work while no proxy runs",
                path,
                error.strerror or error,
            )
        yield
    finally:
        await runner.cleanup()
        _unlink(path)


class _Control:
    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep

    async def perform(self, request: web.Request) -> web.StreamResponse:
        try:
            operation = request.match_info["operation"]
            messages = self._upkeep.perform(operation, await request.json())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with aclosing(messages):
            await response.prepare(request)  # says that the proxy answers, however long it takes
            async for message in messages:
                await response.write(json.dumps(message).encode() + b"\n")
        await response.write_eof()
        return response


def _bind(path: str) -> socket.socket:
    """A socket that only this user can connect to; raises `OSError`."""
    _unlink(path)  # of a process that was killed
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as short:
            bound.bind(short)
            os.chmod(short, 0o600)  # before it listens: until then nobody can connect
    except BaseException:
        bound.close()
        raise
    return bound


def _unlink(path: str) -> None:
    """Remove a socket; a file that is none was not made here."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
