"""Whether a cache directory is this user's alone: what lies in it is served as what was stored.

Blocking: for the start, before anything in the directory is read.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from proxy.cache.errors import CacheError

_log = logging.getLogger(__name__)

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def secure(root: str, folders: Iterable[str]) -> None:
    """See that nobody else can write to the directory or read it, nor to its folders.

    The directory itself may be a symbolic link, which is its user's wish; nothing inside it may.
    What others can read is closed to them. Raises `CacheError` with what to do, or `OSError`.
    """
    closed = _secure(root, os.stat(root), root)
    for path in _with_shards(folders):
        closed += _secure(path, os.lstat(path), root)
    if closed:
        _log.info(
            "others could read %s, and cannot any more: its mode, and that of folders inside, is "
            "0700 now",
            root,
        )


def check(root: str) -> None:
    """See that the directory is nobody else's, before anything is made in it.

    It may be a folder of other things, named by mistake. Raises `CacheError`, or `OSError`.
    """
    _check(root, os.stat(root), root)


def _secure(path: str, status: os.stat_result, root: str) -> int:
    """Check one folder, and close it to others: how many were open."""
    _check(path, status, root)
    if not stat.S_ISDIR(status.st_mode) or not status.st_mode & _OTHERS:
        return 0
    os.chmod(path, stat.S_IMODE(status.st_mode) & ~_OTHERS)
    return 1


def _check(path: str, status: os.stat_result, root: str) -> None:
    problem = f"the cache directory {root} is not safe: "
    if stat.S_ISLNK(status.st_mode):
        raise CacheError(
            f"{problem}{path} is a symbolic link, and none is followed inside it: remove it"
        )
    if not stat.S_ISDIR(status.st_mode):
        return  # not ours, and left alone
    if status.st_uid != os.geteuid():
        raise CacheError(
            f"{problem}{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}: "
            f"run this as that user, or choose a directory of its own, such as {root}/cache"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise CacheError(
            f"{problem}others may write to {path} (mode {stat.S_IMODE(status.st_mode):o}): "
            f"chmod go-w {path}, or choose a directory of its own, such as {root}/cache"
            f"{_hint(status)}"
        )


def _hint(status: os.stat_result) -> str:
    """Kubernetes gives all that is in a volume to the pod's group, each time it mounts it."""
    if status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IWGRP:
        return (
            "; where a pod's fsGroup opens it anew each time, fsGroupChangePolicy: OnRootMismatch"
        )
    return ""


def _with_shards(folders: Iterable[str]) -> Iterator[str]:
    """The folders, and those two levels below: files are never deeper."""
    for folder in folders:
        yield folder
        for below in _links_and_folders(folder):
            yield below
            yield from _links_and_folders(below)


def _links_and_folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as items:
            return [
                item.path
                for item in items
                if item.is_dir(follow_symlinks=False) or (item.is_symlink() and item.is_dir())
            ]
    except NotADirectoryError:
        return []
