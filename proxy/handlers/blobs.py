"""GET, HEAD and DELETE of blobs."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

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
        blob = await self._blobs.open(target, digest, first)
        if isinstance(blob, OnDisk):
            try:
                with blob.pin:
                    return await _send_file(request, digest, blob, wanted)
            except _FileGone:
                blob = await self._blobs.reopen(target, digest, first)
        if isinstance(blob, OnDisk):  # stored anew in the meantime
            with blob.pin:
                return await _send_file(request, digest, blob, wanted)
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


# What the file server would act on besides the range: by the file's times, which say nothing here.
# A blob never changes, so a range of what a client has a part of is always of the same bytes.
_CONDITIONS: Final = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}
)


# A blob of so few bytes is read in one go: a file server's trips to threads cost more than that.
_SMALL: Final = 64 * 1024


class _FileGone(Exception):
    """The file cannot be opened: nothing has been sent yet."""


class _BlobFile(web.FileResponse):
    """A file that is sent by its handler, while it is pinned, and not again by the server."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None if self.prepared else await super().prepare(request)

    def set_status(self, status: int, reason: str | None = None) -> None:
        # How the file server says that it cannot open the file. For a client a 404 would mean that
        # upstream has no such blob, and a build that needs it would end there.
        if status in (403, 404):
            raise _FileGone
        super().set_status(status, reason)


async def _send_file(
    request: web.Request, digest: Digest, blob: OnDisk, wanted: Range | None
) -> web.StreamResponse:
    if blob.pin.size <= _SMALL and "Range" not in request.headers:
        return await _send_small(digest, blob)
    kept = {k: v for k, v in request.headers.items() if k.lower() not in _CONDITIONS}
    if wanted is not None:
        wanted.resolve(blob.pin.size)  # 416 with the registry's body, not the file server's
    elif "Range" in request.headers:
        # A range that may be ignored is, rather than refused by the file server.
        kept = {k: v for k, v in kept.items() if k.lower() != "range"}
    if len(kept) != len(request.headers):
        request = request.clone(headers=kept)
    response = _BlobFile(blob.pin.path, headers={**reply().headers, **_headers(digest)})
    await response.prepare(request)
    return response


async def _send_small(digest: Digest, blob: OnDisk) -> web.StreamResponse:
    try:
        content = await asyncio.to_thread(blob.pin.path.read_bytes)
    except OSError as error:
        raise _FileGone from error
    headers = {**_headers(digest), "Accept-Ranges": "bytes"}
    return reply(body=content, content_type=headers["Content-Type"], headers=headers)


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
