"""The access log: one line a request, which nothing that a client sends can forge or break."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from proxy.handlers.authentication import identity_of

# Not `proxy.access`, which is the package that says who a client is.
ACCESS_LOG: Final = logging.getLogger("proxy.access_log")

_MAX_PATH: Final = 1024
_MAX_FIELD: Final = 256


class AccessLogger(AbstractAccessLogger):
    """Says who asked what, and what came of it; never a query, which may carry a token."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        # Probes come every few seconds, and say something only when something is wrong.
        probe = request.path in ("/livez", "/readyz", "/metrics") and response.status == 200
        user = printable(identity_of(request).user, _MAX_FIELD).replace(" ", "\\x20")
        self.logger.log(
            logging.DEBUG if probe else logging.INFO,
            '%s - %s "%s %s" %s %d %.3fs "%s"',
            request.remote,
            user or "-",
            request.method,
            # Undecoded: a path may hold a line break.
            printable(request.rel_url.raw_path, _MAX_PATH),
            response.status,
            response.body_length,
            time,
            printable(request.headers.get("User-Agent", "-"), _MAX_FIELD),
        )


def printable(text: str, limit: int) -> str:
    """So many characters, with whatever could end the field, or the line, as an escape."""
    return "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text[:limit])


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character.encode("unicode_escape", "backslashreplace").decode()
