"""What a clean stop writes down, so that the next start need not read the whole directory.

    one line of JSON: version, folders, names in `incoming`, count of entries, bytes of other files
    the entries, in an order that restores who is evicted first
    the SHA-256 of all that

It is good for one start: it is removed as it is read, so that a process that is killed leaves none.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from proxy.cache.files import disk_bytes, read_whole, remove, sync_directory
from proxy.cache.layout import Layout
from proxy.cache.policy import Entry

_VERSION: Final = 1
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
# Size and bytes on disk, mark, length of the key, which follows.
_ENTRY: Final = struct.Struct("<qqBB")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was in the directory: `folders` are their bytes on disk by path below the root.

    `other` is the bytes of files that are no entries, those in the root itself left out; `unknown`
    how many of them, and of folders, are not ours, of which `example` is one.
    """

    folders: Mapping[str, int]
    other: int
    unknown: int
    example: str
    count: int
    _packed: bytes

    def entries(self) -> Iterator[tuple[bytes, Entry, int]]:
        packed, at = self._packed, 0
        for _ in range(self.count):
            size, disk, mark, length = _ENTRY.unpack_from(packed, at)
            at += _ENTRY.size + length
            yield packed[at - length : at], Entry(size, disk), mark


def pack_entry(key: bytes, entry: Entry, mark: int) -> bytes:
    return _ENTRY.pack(entry.size, entry.disk, mark, len(key)) + key


def seal(
    layout: Layout,
    packed: bytes,
    *,
    count: int,
    folders: Mapping[str, int],
    other: int,
    unknown: int,
    example: str,
) -> bytes:
    """The content of a checkpoint, of the directory as it is at this moment. Blocking.

    Raises `OSError` when a folder cannot be looked at.
    """
    header = {
        "version": _VERSION,
        "folders": {
            path: [disk, os.stat(f"{layout.root}/{path}").st_ctime_ns]
            for path, disk in folders.items()
            if path not in ("", "incoming")  # both change by the writing of this
        },
        "incoming": sorted(os.listdir(layout.incoming)),
        "root": sorted(os.listdir(layout.root)),
        "count": count,
        "other": other,
        "unknown": unknown,
        "example": example,
    }
    body = json.dumps(header).encode() + b"\n" + packed
    return body + hashlib.sha256(body).digest()


def take(layout: Layout) -> Checkpoint | None:
    """The checkpoint that is there, removed from disk; None without one that is still true.

    It is true as long as nobody has put a file into one of the folders, or taken one out: that
    shows in the folders' times of change, of which a copy has its own, whatever it preserves.
    Blocking; raises `OSError` when it cannot be removed.
    """
    try:
        data = read_whole(layout.checkpoint)
    except FileNotFoundError:
        return None
    except OSError:
        data = b""
    try:
        remove(layout.checkpoint)
    except IsADirectoryError:
        return None  # not ours
    sync_directory(layout.root)  # or it might be back after a power cut, and not be true
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    line, _, packed = body.partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    if header.get("version") != _VERSION:
        return None
    with suppress(OSError):
        if _is_true(layout, header):
            folders = {path: disk for path, (disk, _) in header["folders"].items()}
            for path, name in (("", layout.root), ("incoming", layout.incoming)):
                folders[path] = disk_bytes(os.stat(name))
            return Checkpoint(
                folders,
                header["other"],
                header["unknown"],
                header["example"],
                header["count"],
                packed,
            )
    return None


def _is_true(layout: Layout, header: Mapping[str, Any]) -> bool:
    """Whether the folders are as they were; raises `OSError` where one is gone."""
    times = {path: at for path, (_, at) in header["folders"].items()}
    # What the process itself has in the root comes and goes.
    own = {"control.sock", "checkpoint"}
    return (
        all(os.stat(f"{layout.root}/{path}").st_ctime_ns == at for path, at in times.items())
        and sorted(os.listdir(layout.incoming)) == header["incoming"]
        and set(os.listdir(layout.root)) - own == set(header["root"]) - own
    )
