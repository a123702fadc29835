"""What is done to files, blocking: to be run in the threads of `disk`, never on the event loop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import _Hash

READ_BYTES: Final = 256 * 1024  # large enough that the hop to a thread does not matter


def create(path: str) -> int:
    """A new file for reading and writing; gives its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_read(path: str) -> int:
    """A file that is there, no link to one; gives its descriptor."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def open_unnoticed(path: str) -> int:
    """As `open_read`, and the file's time of access stays, which says when it was last used."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOATIME)
    except PermissionError:  # for the file's owner alone (open(2))
        return open_read(path)


def open_write(path: str) -> int:
    """The same, for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def append(fd: int, data: bytes, position: int, hasher: _Hash | None = None) -> None:
    """Write all of `data` at `position`, then hash it: an error leaves the hash where it stood."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(fd, view[written:], position + written)
    if hasher is not None:
        hasher.update(view)


def hash_range(fd: int, start: int, end: int, hasher: _Hash) -> int:
    """Hash what is there of a range and give the bytes that were; less where the file ends."""
    position = start
    while position < end:
        data = os.pread(fd, min(end - position, READ_BYTES), position)
        if not data:
            break
        hasher.update(data)
        position += len(data)
    return position - start


def disk_bytes(status: os.stat_result) -> int:
    """What the file system counts for a file or directory, in bytes."""
    return status.st_blocks * 512  # st_blocks is in units of 512 whatever the block size, stat(2)


def remove(path: str) -> None:
    """Unlink a file that may be gone already, its directory too."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def discard(path: str) -> None:
    with suppress(OSError):
        remove(path)


def remove_all(paths: Iterable[str]) -> list[OSError | None]:
    """Unlink files; what stood in the way, for each of them."""
    errors: list[OSError | None] = []
    for path in paths:
        try:
            remove(path)
        except OSError as error:
            errors.append(error)
        else:
            errors.append(None)
    return errors


def is_as_long(fd: int, path: str) -> bool:
    """Whether there is a file at the path that is as long as the open one."""
    try:
        return os.lstat(path).st_size == os.fstat(fd).st_size
    except FileNotFoundError:
        return False


def move(fd: int, path: str, target: str) -> os.stat_result:
    """Make an open file and its new name durable; gives its status."""
    folder = os.path.dirname(target)
    os.fsync(fd)
    make_directory(folder)
    os.rename(path, target)
    sync_directory(folder)
    return os.stat(target)


def make_directory(path: str) -> None:
    """Make a directory and those above it, for this user only."""
    with suppress(FileExistsError):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            make_directory(os.path.dirname(path))
            os.mkdir(path, 0o700)


def directory_bytes(paths: Iterable[str]) -> dict[str, int]:
    """What directories take on disk; 0 for one that is not there."""
    sizes = {}
    for path in paths:
        try:
            sizes[path] = disk_bytes(os.stat(path))
        except OSError:
            sizes[path] = 0
    return sizes


def free_bytes(path: str) -> int | None:
    """What a user may still write to the file system; None where it does not say."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def whole_bytes(path: str) -> int:
    """The size of the file system."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize


def read_whole(path: str) -> bytes:
    fd = open_read(path)
    try:
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def read_all(folder: str) -> list[tuple[str, bytes]]:
    """Paths and contents of the files below a folder, which may not be there; those that go
    meanwhile are left out.
    """
    contents = []
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                contents.append((f"{path}/{name}", read_whole(f"{path}/{name}")))
    return contents


def replace(path: str, target: str, data: bytes) -> os.stat_result:
    """Write a file, make it durable, and put it in place of another; gives its status."""
    folder = os.path.dirname(target)
    make_directory(folder)
    remove(path)
    fd = create(path)
    try:
        append(fd, data, 0)
        os.fsync(fd)
        status = os.fstat(fd)
        os.rename(path, target)
    except BaseException:
        with suppress(OSError):
            remove(path)
        raise
    finally:
        os.close(fd)
    sync_directory(folder)
    return status


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
