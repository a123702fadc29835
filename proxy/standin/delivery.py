"""Sends a reply, and lets go wrong with it what is planned. The only sender of the stand-in."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from proxy.standin.faults import NO_FAULT, Plan
from proxy.standin.replies import FilePart, Reply

_CHUNK: Final = 256 * 1024
_PACED_CHUNKS: Final = 20  # a second, under a bandwidth


async def deliver(request: web.BaseRequest, reply: Reply, plan: Plan) -> web.StreamResponse:
    """Send `reply`, or hand it to aiohttp to send; the connection may be gone afterwards."""
    if reply.hangup:
        return hang_up(request)
    if plan.has("lose_reply"):
        return reset(request)
    if request.method == "HEAD" or (not reply.body and not plan.touches_reply):
        return _bodiless(request, reply)
    plain = plan is NO_FAULT or not plan.touches_reply
    if isinstance(reply.body, bytes):
        if plain:
            return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
    elif plain and reply.body.plain and reply.body.length > 0:
        return web.FileResponse(reply.body.path, headers=reply.headers)
    return await _send_slowly(request, reply, plan)


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Break the connection with a TCP reset."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # SO_LINGER of zero seconds: closing sends RST in place of FIN (socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)  # goes nowhere: aiohttp wants some response


def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection; what was written so far still arrives."""
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)  # goes nowhere, as above


def _bodiless(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    headers = dict(reply.headers)
    if request.method == "HEAD":
        headers.setdefault("Content-Length", str(reply.length))
    return web.Response(status=reply.status, headers=headers)


async def _send_slowly(request: web.BaseRequest, reply: Reply, plan: Plan) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if isinstance(reply.body, FilePart) and reply.status == 206:
        first, last = reply.body.start, reply.body.stop - 1
        response.headers["Content-Range"] = f"bytes {first}-{last}/{reply.body.size}"
    if plan.has("no_length"):
        response.enable_chunked_encoding()
    else:
        response.content_length = reply.length
    await response.prepare(request)
    cut, hold = plan.first("cut_after"), plan.first("hold_at")
    stops = sorted({stop for stop in (cut, hold) if stop is not None})
    size = max(1, plan.bandwidth // _PACED_CHUNKS) if plan.bandwidth else _CHUNK
    position = 0
    async for chunk in _pieces(reply.body, min(size, _CHUNK), stops):
        position = await _gates(plan, position, hold)
        if position == cut:
            return _cut(request, response)
        if plan.bandwidth:
            await asyncio.sleep(len(chunk) / plan.bandwidth)
        await response.write(_corrupted(chunk, position, plan.first("corrupt_at")))
        position += len(chunk)
    position = await _gates(plan, position, hold)
    if cut is not None and position <= cut:
        return _cut(request, response)
    await response.write_eof()
    return response


async def _gates(plan: Plan, position: int, hold: int | None) -> int:
    if position == hold:
        for armed in plan.met:
            if armed.fault.hold_at == hold:
                await armed.wait()
    return position


def _cut(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    hang_up(request)
    return response


def _corrupted(chunk: bytes, position: int, at: int | None) -> bytes:
    if at is None or not position <= at < position + len(chunk):
        return chunk
    changed = bytearray(chunk)
    changed[at - position] ^= 0xFF
    return bytes(changed)


async def _pieces(body: bytes | FilePart, size: int, stops: list[int]) -> AsyncIterator[bytes]:
    """The body in chunks of at most `size`, ending at each of `stops` too."""
    length = len(body) if isinstance(body, bytes) else body.length
    file = None if isinstance(body, bytes) else await asyncio.to_thread(body.path.open, "rb")
    try:
        if file is not None and isinstance(body, FilePart):
            file.seek(body.start)
        position = 0
        while position < length:
            end = min([position + size, length, *(stop for stop in stops if stop > position)])
            if isinstance(body, bytes):
                yield body[position:end]
            elif file is not None:
                yield await asyncio.to_thread(file.read, end - position)
            position = end
    finally:
        if file is not None:
            file.close()
