"""The watcher counts as `du` does, and tells an excess from files that took turns."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.crash.processes import watching
from tests.crash.watcher import Watched, common, disk_usage, total_of, walk, watch

MIB = 1024 * 1024


def _du(folder: Path) -> int:
    done = subprocess.run(["du", "-s", "-B1", str(folder)], check=True, capture_output=True)
    return int(done.stdout.split()[0])


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(MIB))


def test_all_is_counted_and_nothing_twice(tmp_path: Path) -> None:
    _fill(tmp_path, "incoming/a", "blobs/sha256/ab/b", "top")
    (tmp_path / "uploads").mkdir()
    os.link(tmp_path / "top", tmp_path / "uploads" / "again")
    (tmp_path / "link").symlink_to("/")
    assert disk_usage(str(tmp_path)) == _du(tmp_path) > 3 * MIB


def test_an_excess_that_stays_is_told(tmp_path: Path) -> None:
    _fill(tmp_path, "incoming/a", "incoming/b")
    watched = Watched()
    watch(str(tmp_path), MIB, watched)
    assert watched.walked_again == 1
    assert watched.maximum == watched.widest == _du(tmp_path)


def test_files_that_took_turns_are_no_excess(tmp_path: Path) -> None:
    _fill(tmp_path, "incoming/a", "blobs/old")
    first = walk(str(tmp_path))
    (tmp_path / "blobs" / "old").unlink()
    _fill(tmp_path, "blobs/new")  # with the inode of the other, where those are used again at once
    (tmp_path / "incoming" / "a").rename(tmp_path / "blobs" / "a")
    both = common(first, walk(str(tmp_path)))
    assert MIB < total_of(both) < 2 * MIB


async def test_a_process_of_its_own_watches_until_it_is_told_to_stop(tmp_path: Path) -> None:
    async with watching(tmp_path, 8 * MIB) as watched:
        _fill(tmp_path, "incoming/a")
    assert watched.samples > 1
    assert watched.maximum == watched.widest == _du(tmp_path)
