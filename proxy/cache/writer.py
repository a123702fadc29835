"""Appends what comes to a file and hashes it, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.cache.disk import Disk, Signal
from proxy.cache.errors import DiskFailed
from proxy.cache.files import append

if TYPE_CHECKING:
    from hashlib import _Hash

# What may wait for the disk before the source must: one such batch, while another is written.
_BATCH: Final = 1024 * 1024


class Writer:
    """Writes in order, each time as much as has gathered during the last write.

    Invariant: the first `position` bytes of the file are what was fed, and `hasher` stands there,
    whatever fails.
    """

    def __init__(
        self, disk: Disk, fd: int, hasher: _Hash, progress: Callable[[bytes], None]
    ) -> None:
        self.position = 0
        self._disk = disk
        self._fd = fd
        self._hasher = hasher
        self._progress = progress
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._failure: DiskFailed | None = None
        self._task: asyncio.Task[None] | None = None
        self._signal = Signal()

    async def feed(self, chunk: bytes) -> None:
        """Take a chunk; waits while too much is waiting. Raises `DiskFailed` for an earlier one."""
        while self._waiting_bytes >= _BATCH and self._failure is None:
            await self._signal.wait()
        if self._failure is not None:
            raise self._failure
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._task is None:
            self._task = asyncio.create_task(self._write())

    async def finish(self) -> None:
        """Wait until all is written; raises `DiskFailed`."""
        while self._task is not None:
            await self._signal.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Drop what has not been begun, and wait for what has."""
        self._waiting.clear()
        self._waiting_bytes = 0
        while self._task is not None:
            await self._signal.wait()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
                self._waiting, self._waiting_bytes = [], 0
                await self._disk.run(append, self._fd, batch, self.position, self._hasher)
                self.position += len(batch)
                self._progress(batch)
                self._signal.wake()
        except OSError as error:
            self._failure = DiskFailed(f"the disk refused a write: {error}")
            self._waiting.clear()
        finally:
            self._task = None
            self._signal.wake()
