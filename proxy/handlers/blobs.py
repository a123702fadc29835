"""GET, HEAD and DELETE of blobs."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from proxy.handlers.files import FileDamaged, FileUnusable, read_file, send_file
from proxy.handlers.ranges import Range
from proxy.handlers.replies import head_reply, reply, stream_reply
from proxy.handlers.routes import Route
from proxy.oci import Digest
from proxy.services.blobs import Blobs, OnDisk, Streamed
from proxy.services.registries import Target


class BlobHandlers:
    """Renders blobs."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def get(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        digest = _digest(route)
        wanted = Range.parse(request.headers.get("Range"))
        first = wanted.first if wanted is not None and wanted.first is not None else 0

        async def left() -> None:
            while request.transport is not None:  # noqa: ASYNC110 aiohttp tells nobody of it
                await asyncio.sleep(_LOOK_SECONDS)

        blob = await self._blobs.open(target, digest, first, left=left)
        if isinstance(blob, OnDisk):
            try:
                with blob.pin:
                    return await _send_file(request, digest, blob, wanted)
            except FileUnusable as error:
                blob = await self._blobs.reopen(
                    target, digest, str(error), lost=error.lost, left=left
                )
            except FileDamaged as error:
                await self._blobs.discard(target, digest, str(error))
                return error.response
        return await _send_stream(request, digest, blob, wanted)

    async def head(self, request: web.Request, route: Route, target: Target) -> web.StreamResponse:
        digest = _digest(route)
        size = await self._blobs.stat(target, digest)
        return head_reply(size, {**_headers(digest), "Accept-Ranges": "bytes"})

    async def delete(
        self, request: web.Request, route: Route, target: Target
    ) -> web.StreamResponse:
        await self._blobs.delete(target, _digest(route))
        return reply(202)


# Whether a client that waits is there still is looked at so often.
_LOOK_SECONDS: Final = 0.5
# A blob of so few bytes is read in one go: sending a file costs more than that.
_SMALL: Final = 64 * 1024


async def _send_file(
    request: web.Request, digest: Digest, blob: OnDisk, wanted: Range | None
) -> web.StreamResponse:
    size = blob.pin.size
    status, headers = 200, {**_headers(digest), "Accept-Ranges": "bytes"}
    start, end = 0, size
    if wanted is not None:
        start, end = wanted.resolve(size)
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
    if size <= _SMALL:
        content = await read_file(blob.pin.path, size)
        kind = headers["Content-Type"]
        return reply(status, body=content[start:end], content_type=kind, headers=headers)
    headers["Content-Length"] = str(end - start)
    return await send_file(
        request, blob.pin.path, size, status=status, headers=headers, start=start, end=end
    )


async def _send_stream(
    request: web.Request, digest: Digest, blob: Streamed, wanted: Range | None
) -> web.StreamResponse:
    headers = _headers(digest)
    if blob.total is None:
        return await stream_reply(request, 200, headers, blob.read(0, None))
    headers["Accept-Ranges"] = "bytes"
    if wanted is None:
        headers["Content-Length"] = str(blob.total)
        return await stream_reply(request, 200, headers, blob.read(0, None))
    start, end = wanted.resolve(blob.total)
    headers["Content-Length"] = str(end - start)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.total}"
    return await stream_reply(request, 206, headers, blob.read(start, end))


def _headers(digest: Digest) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}


def _digest(route: Route) -> Digest:
    assert route.digest is not None  # noqa: S101 routes.parse gives every blob a digest
    return route.digest
