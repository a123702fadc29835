"""Sums what a directory takes on disk, every few milliseconds, in a process of its own.

    python -m tests.crash.watcher DIRECTORY LIMIT

It says `watching` after the first sample, walks on until its input ends, and then prints a line of
JSON, the fields of `Watched`.

What is summed is `st_blocks` of every file and directory, the top one too. A walk takes a
millisecond or more, and the files change under it, so it is no picture of one instant:

- A file that is renamed meanwhile is counted once, by its inode. `incoming` and `uploads` are
  walked first, and files only ever move from there to where they stay, so none is missed.
- A file that vanishes meanwhile was counted, and so may be one that came in its place. So a sum
  beyond the limit proves nothing yet. It is followed by a second walk at once, and what both found
  is summed, with the size that the first found: files only grow, so that much was there in the
  instant between the two. Only that sum is an excess. A file that was there for less than a walk
  before and after is the price: it escapes such a sum, as one that lives between two samples does.

An unlinked file that is still open takes room and is not seen by a walk, nor by `du`. The file
system knows of it, and tells what is in use in one call, of one instant: `in_use` says how much
more that ever was than at the first sample, for directories that have a file system to themselves.
"""

from __future__ import annotations

import json
import os
import select
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

_PAUSE_SECONDS: Final = 0.002
_FIRST: Final = ("incoming", "uploads")
_HEX_DIGITS: Final = 64  # of a sha256


@dataclass(slots=True)
class Watched:
    """`maximum` is proved: the largest sum within the limit, or excess that two walks agree on.

    `widest` is the largest sum of a single walk, `walked_again` how often one was beyond the limit.
    All in bytes as the file system counts them.
    """

    maximum: int = 0
    samples: int = 0
    widest: int = 0
    walked_again: int = 0
    in_use: int = 0


class Seen(NamedTuple):
    """A file or directory. An inode that was freed and taken anew has another name and time."""

    name: str  # its end: a blob's is its digest wherever it lies
    written_at: int
    size: int  # on disk


Walk = dict[tuple[int, int], Seen]


def disk_usage(directory: str) -> int:
    """What a directory takes on disk with all that is in it, in bytes, as `du` counts."""
    return total_of(walk(directory))


def used_of_file_system(directory: str) -> int:
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def watch(directory: str, limit: int, watched: Watched, *, used_before: int = 0) -> None:
    """Take one sample."""
    watched.in_use = max(watched.in_use, used_of_file_system(directory) - used_before)
    first = walk(directory)
    total = total_of(first)
    watched.samples += 1
    watched.widest = max(watched.widest, total)
    if total > limit:
        watched.walked_again += 1
        total = total_of(common(first, walk(directory)))
    watched.maximum = max(watched.maximum, total)


def total_of(walk: Walk) -> int:
    return sum(seen.size for seen in walk.values())


def common(first: Walk, second: Walk) -> Walk:
    """What was there from the first walk to the second, as large as it was in the first."""
    return {
        inode: seen
        for inode, seen in first.items()
        if (again := second.get(inode)) is not None
        and (again.name == seen.name or again.written_at == seen.written_at)
    }


def walk(directory: str) -> Walk:
    found: Walk = {}
    waiting = [directory]
    for path in waiting:  # which grows meanwhile
        _look(path, found)
        below = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    below.append(item.path)
                else:
                    _look(item.path, found)
        waiting += sorted(below, key=lambda path: os.path.basename(path) not in _FIRST)
    return found


def _look(path: str, found: Walk) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.lstat(path)
        found[status.st_dev, status.st_ino] = Seen(
            path[-_HEX_DIGITS:], status.st_mtime_ns, status.st_blocks * 512
        )


def main() -> None:
    directory, limit = sys.argv[1], int(sys.argv[2])
    watched, before = Watched(), used_of_file_system(directory)
    watch(directory, limit, watched, used_before=before)
    print("watching", flush=True)
    stopped = False
    while not stopped:
        stopped = bool(select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0])
        watch(directory, limit, watched, used_before=before)
    print(json.dumps(asdict(watched)), flush=True)


if __name__ == "__main__":
    main()
