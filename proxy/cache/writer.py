"""Appends what comes to a file and hashes it, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.cache.disk import Disk, Signal
from proxy.cache.errors import DiskFailed
from proxy.cache.files import append, hash_range

if TYPE_CHECKING:
    from hashlib import _Hash

# What may wait for the disk before the source must: one such batch, while another is written.
_BATCH: Final = 1024 * 1024
_HASH_BYTES: Final = 8 * 1024 * 1024  # read back at a time, so that it can be broken off


class Writer:
    """Writes in order, each time as much as has gathered during the last write.

    Invariant: the first `position` bytes of the file are what was fed, after what was there, and
    `hasher` stands at `hashed`, whatever fails. What was there is hashed while more is written:
    then what is written meanwhile is hashed afterwards, from the file.
    """

    def __init__(
        self,
        disk: Disk,
        fd: int,
        hasher: _Hash,
        progress: Callable[[bytes], None],
        *,
        position: int = 0,
    ) -> None:
        """`position`: how many bytes the file has already. Needs a running event loop."""
        self.position = position
        self.hashed = 0
        self._disk = disk
        self._fd = fd
        self._hasher = hasher
        self._progress = progress
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._failure: DiskFailed | None = None
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._signal = Signal()
        if position:
            self._catching_up = asyncio.create_task(self._catch_up())

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
        """Wait until all is written and hashed; raises `DiskFailed`."""
        await self._quiet()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Drop what has not been begun, and wait for what has."""
        self._stopped = True
        self._waiting.clear()
        self._waiting_bytes = 0
        await self._quiet()

    async def _quiet(self) -> None:
        while self._task is not None or self._catching_up is not None:
            await self._signal.wait()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
                self._waiting, self._waiting_bytes = [], 0
                # One at a time is at the hasher: this one only where the other has nothing to do.
                level = self._catching_up is None
                hasher = self._hasher if level else None
                await self._disk.run(append, self._fd, batch, self.position, hasher)
                self.position += len(batch)
                if level:
                    self.hashed = self.position
                elif self._catching_up is None and self._failure is None:
                    self._catching_up = asyncio.create_task(self._catch_up())
                self._progress(batch)
                self._signal.wake()
        except OSError as error:
            self._fail(f"the disk refused a write: {error}", error)
        finally:
            self._task = None
            self._signal.wake()

    async def _catch_up(self) -> None:
        """Hash what is in the file and was not hashed as it was written."""
        try:
            while self.hashed < self.position and not self._stopped:
                end = min(self.hashed + _HASH_BYTES, self.position)
                count = await self._disk.run(hash_range, self._fd, self.hashed, end, self._hasher)
                self.hashed += count
                if self.hashed < end:
                    self._fail(f"a file ends at byte {self.hashed}: something else has cut it")
                    return
        except OSError as error:
            self._fail(f"the disk refused a read: {error}", error)
        finally:
            self._catching_up = None
            self._signal.wake()

    def _fail(self, what: str, cause: OSError | None = None) -> None:
        self._failure = DiskFailed(what)
        self._failure.__cause__ = cause
        self._waiting.clear()
