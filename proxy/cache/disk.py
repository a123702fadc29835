"""The threads that read, write and hash, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from proxy.cache.errors import DiskFailed
from proxy.cache.files import READ_BYTES

P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 8
# For what may keep a disk busy for seconds: to make a large file durable, or to free its blocks.
# Apart, so that no reader and no fill waits behind that.
_SLOW_THREADS: Final = 4


async def to_the_end(work: Awaitable[T]) -> T:
    """Await work that must not be left half done: a cancellation is raised when it has ended.

    So what the work changes and what is counted for it cannot be torn apart, and no thread is
    still at a file when its owner closes it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # marks it as seen: the cancellation is what is raised
        raise


class Disk:
    """Runs blocking work in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cache-disk")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="cache-slow")
        self._unawaited: set[asyncio.Future[None]] = set()
        self._closed = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives or raises. When this returns or raises, the thread has ended it."""
        return await to_the_end(self._submit(self._threads, work, *args, **kwargs))

    async def run_slowly(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, for what may take the disk seconds."""
        return await to_the_end(self._submit(self._slow, work, *args, **kwargs))

    async def open(self, opener: Callable[[str], int], path: str) -> int:
        """The descriptor that `opener` gives; a caller that is cancelled leaves none open."""
        future = self._submit(self._threads, opener, path)
        try:
            return await to_the_end(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                os.close(future.result())
            raise

    def start(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin work that nobody waits for but `close`, and that must not fail."""
        if self._closed:  # a reader that outlives the cache lets its file go
            work(*args, **kwargs)
            return
        future = self._submit(self._slow, work, *args, **kwargs)
        self._unawaited.add(future)
        future.add_done_callback(self._unawaited.discard)

    def _submit(
        self, threads: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        if self._closed:
            raise DiskFailed("the cache is closed")
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(threads, lambda: work(*args, **kwargs))

    async def close(self) -> None:
        """Wait for what was started; what is run after this raises `DiskFailed`."""
        while self._unawaited:
            await asyncio.wait(self._unawaited)
        self._closed = True
        for threads in (self._threads, self._slow):
            threads.shutdown(wait=True)  # idle threads: this does not block


class Signal:
    """Wakes everybody who waits; who begins to wait afterwards waits for the next time."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class SharedFile:
    """An open file that is closed when the last who holds it lets go.

    Whoever makes it holds it.
    """

    def __init__(self, disk: Disk, fd: int) -> None:
        self.fd = fd
        self._disk = disk
        self._holders = 1
        self._afterwards: list[Callable[[], None]] = []

    def afterwards(self, call: Callable[[], None]) -> None:
        """Have something called after the last one, as the file is being closed."""
        self._afterwards.append(call)

    def hold(self) -> None:
        self._holders += 1

    def drop(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            # Closing frees the blocks of a file that is unlinked already, which takes its time.
            self._disk.start(os.close, self.fd)
            for call in self._afterwards:
                call()

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """All bytes from `start` to `end` (exclusive); raises `DiskFailed` where they are not."""
        self.hold()
        try:
            while start < end:
                piece = await self.read(start, end)
                start += len(piece)
                yield piece
        finally:
            self.drop()

    async def read(self, start: int, end: int) -> bytes:
        """Bytes from `start` on, as many as one read is for.

        Raises `DiskFailed`, also where the file ends before `start`, which it should not.
        """
        try:
            data = await self._disk.run(os.pread, self.fd, min(end - start, READ_BYTES), start)
        except OSError as error:
            raise DiskFailed(f"the disk refused a read: {error}") from error
        if not data:
            raise DiskFailed(f"a file ends before byte {start}: something else has cut it")
        return data
