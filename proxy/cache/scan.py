"""What lies in a cache directory at start-up: the disk is the truth, and is read once.

Leftovers of ours are removed here; what is not ours is counted and left alone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Final

from proxy.cache.errors import CacheError
from proxy.cache.files import disk_bytes
from proxy.cache.layout import Layout, is_incoming_name, key_at
from proxy.cache.policy import Entry

_UPLOAD_SECONDS: Final = 24 * 3600.0
_OWN_FILES: Final = frozenset({"lock", "secret"})


@dataclass(slots=True)
class Found:
    """Files by key, least recently used first; sizes in bytes as the file system counts them."""

    entries: list[tuple[bytes, Entry]] = field(default_factory=list)
    directories: dict[str, int] = field(default_factory=dict)
    other_bytes: int = 0  # our own files that are no entries, and those that are not ours
    unknown: list[str] = field(default_factory=list)  # paths below the root, not ours


def scan(layout: Layout) -> Found:
    """Read the directory; raises `CacheError` when it cannot be."""
    scanner = _Scanner(layout.root)
    try:
        scanner.walk("")
    except OSError as error:
        raise CacheError(
            f"the cache directory {layout.root} cannot be read: {error}; "
            "let this user read it, or choose another"
        ) from error
    # A file's time of access says when it was last used: the store sets it, and so does a read on
    # most mounts. The time of modification is left alone, since clients get an ETag made of it.
    scanner.dated.sort(key=lambda dated: dated[0])
    scanner.found.entries = [(key, entry) for _, key, entry in scanner.dated]
    return scanner.found


class _Scanner:
    def __init__(self, root: str) -> None:
        self.found = Found()
        self.dated: list[tuple[int, bytes, Entry]] = []
        self._root = root
        self._oldest_upload = time.time() - _UPLOAD_SECONDS

    def walk(self, relative: str) -> None:
        path = f"{self._root}/{relative}" if relative else self._root
        self.found.directories[path] = disk_bytes(os.stat(path))
        with os.scandir(path) as items:
            for item in items:
                name = f"{relative}/{item.name}" if relative else item.name
                if item.is_dir(follow_symlinks=False):
                    if _is_own_directory(name):
                        self.walk(name)
                    else:
                        self.found.unknown.append(name)
                else:
                    self._file(name, item)

    def _file(self, name: str, item: os.DirEntry[str]) -> None:
        status = item.stat(follow_symlinks=False)
        regular = item.is_file(follow_symlinks=False)
        folder, _, own = name.rpartition("/")
        if regular and folder == "incoming" and is_incoming_name(own):
            os.unlink(item.path)  # whoever wrote it is gone
            return
        key = key_at(name) if regular else None
        if key is None:
            self.found.other_bytes += disk_bytes(status)
            if name not in _OWN_FILES:
                self.found.unknown.append(name)
            return
        if folder == "uploads" and status.st_mtime < self._oldest_upload:
            os.unlink(item.path)
            return
        self.dated.append((status.st_atime_ns, key, Entry(status.st_size, disk_bytes(status))))


def _is_own_directory(name: str) -> bool:
    """Whether files of ours may lie in or below a directory."""
    parts = name.split("/")
    match parts:
        case ["blobs" | "records" | "uploads" | "incoming"] | ["blobs" | "records", _]:
            return True
        case ["blobs" | "records", _, shard]:
            return len(shard) == 2
        case _:
            return False
