"""`Expect: 100-continue`: a client is told to go on when its body is wanted, and not before.

aiohttp tells it so before any handler has seen the request; a client that is refused would send
gigabytes for nothing.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web

_WAITS = web.RequestKey("waits to be told to go on", bool)


async def hold(request: web.Request) -> None:
    """For a route's `expect_handler`; other expectations are ignored (RFC 9110 §10.1.1)."""
    expected = request.headers.get("Expect", "").lower()
    request[_WAITS] = expected == "100-continue" and request.version >= HttpVersion11


def is_held(request: web.Request) -> bool:
    """Whether the client waits to be told to send its body."""
    held: bool = request.get(_WAITS, False)
    return held


async def proceed(request: web.Request) -> None:
    """Have the client send the body, if it still waits for that."""
    if not is_held(request):
        return
    request[_WAITS] = False
    if request.content.total_bytes:
        return  # it did not wait (RFC 9110 §10.1.1: it need not be told then)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # as aiohttp's own: this is no part of the reply
