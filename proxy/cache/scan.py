"""What lies in a cache directory, read one folder at a time: the disk is the truth.

Leftovers of ours are removed here as a process starts; what is not ours is counted and left alone.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.cache.files import disk_bytes, remove
from proxy.cache.layout import Layout, is_leftover, key_at
from proxy.cache.policy import Entry

_UPLOAD_SECONDS: Final = 24 * 3600.0
_OWN_FILES: Final = frozenset({"lock", "secret", "checkpoint", "control.sock"})
# Time of last use in nanoseconds, size and bytes on disk, length of the key, which follows.
_FILE: Final = struct.Struct("<qqqB")


@dataclass(slots=True)
class Folder:
    """One folder: `disk` is what it takes itself, in bytes as the file system counts them.

    `other` is what is in it and is no entry: our own files of another kind, and those that are not
    ours, whose paths below the root are in `unknown`. `folders` are those below it that are ours.
    """

    path: str
    disk: int = 0
    other: int = 0
    folders: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _files: list[tuple[int, bytes, Entry]] = field(default_factory=list)

    def files(self) -> Iterator[tuple[bytes, Entry]]:
        """The entries, least recently used first."""
        return ((key, entry) for _, key, entry in self._files)

    def pack(self) -> bytes:
        """The entries with their times of use, in little room: for `unpack`."""
        pieces: list[bytes] = []
        for used_at, key, entry in self._files:
            pieces += (_FILE.pack(used_at, entry.size, entry.disk, len(key)), key)
        return b"".join(pieces)


def unpack(packed: bytes) -> Iterator[tuple[int, bytes, Entry]]:
    """Time of last use, key and entry of each file that `Folder.pack` packed."""
    at = 0
    while at < len(packed):
        used_at, size, disk, length = _FILE.unpack_from(packed, at)
        at += _FILE.size + length
        yield used_at, packed[at - length : at], Entry(size, disk)


def read_folder(layout: Layout, relative: str, *, tidy: bool) -> Folder:
    """Read the folder at a path below the root ("": the root itself); raises `OSError`.

    `tidy` is for the start, when nobody writes: what a process that is gone left half written is
    removed, and so are uploads that nobody has gone on with for a day. At any other time such files
    are somebody's, who has room reserved for them: they are no entries, and not counted.

    A file's time of access says when it was last used: the store sets it, and so does a read on
    most mounts. The time of modification is left alone, since it tells uploads that are given up.
    """
    folder = Folder(relative)
    path = f"{layout.root}/{relative}" if relative else layout.root
    folder.disk = disk_bytes(os.stat(path))
    with os.scandir(path) as items:
        for item in items:
            name = f"{relative}/{item.name}" if relative else item.name
            if item.is_dir(follow_symlinks=False):
                (folder.folders if is_own_folder(name) else folder.unknown).append(name)
            else:
                _read_file(folder, name, item, tidy)
    folder._files.sort(key=lambda file: file[0])
    return folder


def _read_file(folder: Folder, name: str, item: os.DirEntry[str], tidy: bool) -> None:
    try:
        status = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # evicted since it was listed
    regular = item.is_file(follow_symlinks=False)
    if regular and folder.path == "incoming" and is_leftover(item.name):
        if tidy:
            remove(item.path)
        return
    key = key_at(name) if regular else None
    if key is None:
        folder.other += disk_bytes(status)
        if name not in _OWN_FILES:
            folder.unknown.append(name)
    elif tidy and folder.path == "uploads" and status.st_mtime < time.time() - _UPLOAD_SECONDS:
        remove(item.path)
    else:
        folder._files.append((status.st_atime_ns, key, Entry(status.st_size, disk_bytes(status))))


def look(path: str) -> Entry | None:
    """The file that is at a path at this moment; None without one."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return Entry(status.st_size, disk_bytes(status)) if stat.S_ISREG(status.st_mode) else None


def is_own_folder(name: str) -> bool:
    """Whether files of ours may lie in or below the folder at a path below the root."""
    parts = name.split("/")
    match parts:
        case ["blobs" | "records" | "uploads" | "incoming" | "quarantine"]:
            return True
        case ["blobs" | "records", _]:
            return True
        case ["blobs" | "records", _, shard]:
            return len(shard) == 2
        case _:
            return False
