"""Work that must not be left half done."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from proxy.cache.disk import Disk, SharedFile, Signal, to_the_end
from proxy.cache.errors import DiskFailed
from proxy.cache.files import create


async def test_a_cancelled_caller_waits_until_the_thread_has_ended() -> None:
    disk = Disk()
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait()
        ended.set()

    task = asyncio.create_task(disk.run(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0)
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    await disk.close()


async def test_what_fails_after_a_cancellation_is_still_a_cancellation() -> None:
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        raise OSError

    task = asyncio.create_task(to_the_end(work()))
    await asyncio.wait([task], timeout=0)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_file_opened_for_one_who_was_cancelled_is_closed(tmp_path: Path) -> None:
    disk = Disk()
    begun, go = threading.Event(), threading.Event()
    opened: list[int] = []

    def opener(path: str) -> int:
        begun.set()
        go.wait()
        opened.append(create(path))
        return opened[0]

    task = asyncio.create_task(disk.open(opener, str(tmp_path / "file")))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    await disk.close()


async def test_a_shared_file_is_closed_by_the_last_who_holds_it(tmp_path: Path) -> None:
    disk = Disk()
    ended: list[bool] = []
    fd = await disk.open(create, str(tmp_path / "file"))
    os.write(fd, b"content")
    file = SharedFile(disk, fd)
    file.afterwards(lambda: ended.append(True))
    file.hold()
    file.drop()
    assert await file.read(0, 100) == b"content"
    with pytest.raises(DiskFailed, match="ends before byte 7"):
        await file.read(7, 100)
    assert not ended
    file.drop()
    assert ended
    await disk.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_closed_disk_refuses_work_and_lets_files_go(tmp_path: Path) -> None:
    disk = Disk()
    fd = await disk.open(create, str(tmp_path / "file"))
    file = SharedFile(disk, fd)
    await disk.close()
    with pytest.raises(DiskFailed):
        await file.read(0, 1)
    file.drop()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_signal_wakes_those_who_wait_and_no_others() -> None:
    signal = Signal()
    signal.wake()
    waiting = [asyncio.create_task(signal.wait()) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0)
    waiting[0].cancel()
    assert not waiting[1].done()
    signal.wake()
    await asyncio.gather(*waiting[1:])
