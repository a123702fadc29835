"""Sends a file of which the right size is known: that many bytes, or nothing, or a broken reply.

aiohttp's own file server sends whatever length the file has.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.handlers.connections import count_unread
from proxy.handlers.replies import break_off, start_reply

# What opening says when there is no such file, or something else in its place, rather than that
# it cannot be opened for now (no descriptors, no memory).
_LOST: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EIO}
)
# What sending says of the network, and not of the file: that a client has gone without a word.
_UNREACHABLE: Final = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENOTCONN,
        errno.ENOBUFS,
    }
)


class FileUnusable(Exception):
    """The file cannot be sent, and nothing of it was. `lost`: nor will it be later."""

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost


class FileDamaged(Exception):
    """The file turned out to be shorter, or not to be readable, while it was being sent.

    The connection has been broken off; `response` is what was being sent on it.
    """

    def __init__(self, message: str, response: web.StreamResponse) -> None:
        super().__init__(message)
        self.response = response


async def read_file(path: Path, size: int) -> bytes:
    """A small file of `size` bytes in one go; raises `FileUnusable`."""
    return await asyncio.to_thread(_read, path, size)


async def send_file(
    request: web.Request,
    path: Path,
    size: int,
    *,
    status: int,
    headers: Mapping[str, str],
    start: int,
    end: int,
) -> web.StreamResponse:
    """Send bytes `start` to before `end` of a file of `size` bytes; `headers` name their length.

    Without a copy through Python where the connection is plain TCP. Raises `FileUnusable`, or
    `FileDamaged` when the reply had begun.
    """
    async with _opened(path, size) as file:
        response = await start_reply(request, status, headers)
        transport = request.transport
        if transport is None or transport.is_closing():
            return response  # the client has gone away
        try:
            sent = await asyncio.get_running_loop().sendfile(transport, file, start, end - start)
        except OSError as error:
            if is_the_clients(error):
                if isinstance(error, TimeoutError):
                    count_unread(request)
                return response
            raise _damaged(request, response, f"{path} cannot be read: {error}") from error
        if sent < end - start:  # not to be ended as if it were whole
            reason = f"{path} ended at byte {start + sent} while it was being sent"
            raise _damaged(request, response, reason)
        with suppress(ConnectionError):
            await response.write_eof()
        return response


def is_the_clients(error: OSError) -> bool:
    """Whether an error of sending a file says that its reader has gone, rather than its bytes."""
    return isinstance(error, ConnectionError | TimeoutError) or error.errno in _UNREACHABLE


def _damaged(request: web.Request, response: web.StreamResponse, reason: str) -> FileDamaged:
    break_off(request, reason)
    return FileDamaged(reason, response)


@asynccontextmanager
async def _opened(path: Path, size: int) -> AsyncIterator[io.FileIO]:
    """The file, if it has that size; closed also when the caller is cancelled meanwhile."""
    opening = asyncio.get_running_loop().run_in_executor(None, _open, path, size)
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    # Closing is quick: a file that is being read is pinned, so its blocks are not freed by it.
    with file:
        yield file


def _close_unwanted(opening: asyncio.Future[io.FileIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


# Blocking work


def _open(path: Path, size: int) -> io.FileIO:
    # A pipe in the file's place would keep an opener waiting.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = io.FileIO(os.open(path, flags))
    except OSError as error:
        raise FileUnusable(
            f"{path} cannot be opened: {error.strerror}", lost=error.errno in _LOST
        ) from error
    try:
        _check(os.fstat(file.fileno()), path, size)
    except BaseException:
        file.close()
        raise
    return file


def _check(status: os.stat_result, path: Path, size: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileUnusable(f"{path} is no file", lost=True)
    if status.st_size != size:
        raise FileUnusable(f"{path} has {status.st_size} bytes, not {size}", lost=True)


def _read(path: Path, size: int) -> bytes:
    try:
        with _open(path, size) as file:
            content = file.read(size)
    except OSError as error:
        raise FileUnusable(f"{path} cannot be read: {error.strerror}", lost=True) from error
    if len(content) != size:
        raise FileUnusable(f"{path} ended while it was being read", lost=True)
    return content
