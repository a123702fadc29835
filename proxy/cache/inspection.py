"""Whether what is on disk is what it should be: blobs hashed again, the accounting checked."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from random import shuffle
from typing import Final

from proxy.cache.disk import to_the_end
from proxy.cache.errors import DiskFailed
from proxy.cache.files import hash_range, open_unnoticed
from proxy.cache.layout import (
    digest_of,
    is_blob,
    is_partial,
    is_upload,
    quarantine_key,
)
from proxy.cache.loading import Others
from proxy.cache.policy import Entry
from proxy.cache.scan import Folder, look, read_folder
from proxy.cache.space import Space
from proxy.events import Event, Kind
from proxy.oci import Digest

_HASH_BYTES: Final = 4 * 1024 * 1024  # hashed in one go; at a bounded rate a fraction of it
_BATCH: Final = 1000
# What says that the process can open or read nothing for now, and nothing about the file.
_NOT_NOW: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Checked:
    """A blob that was hashed again: `size` in bytes; `problem` is a sentence, empty if it is right.

    One with a problem has been put aside, and is fetched again when it is asked for.
    """

    digest: Digest
    size: int
    problem: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was counted as in use and what is, in bytes as the file system counts them.

    `missing`: files that were counted and are not there; `found`: those that were not counted.
    From now on what is there is counted. `unknown` files and folders, of which `example` is one,
    are not ours.
    """

    counted: int
    on_disk: int
    missing: int
    found: int
    unknown: int
    example: str

    @property
    def mended(self) -> bool:
        """Whether anything was not as it was counted."""
        return self.missing > 0 or self.found > 0 or self.counted != self.on_disk


async def verify(space: Space, *, rate: int) -> AsyncGenerator[Checked, None]:
    """Hash every blob again, at most `rate` bytes a second (0: as fast as it goes).

    Those that come meanwhile are left out: they were hashed as they came. The order is a random
    one, so that no blob is always among the last of rounds that a restart cuts short.
    """
    await space.settled()
    keys = space.budget.snapshot()
    await space.disk.run(shuffle, keys)
    for looked, key in enumerate(keys, 1):
        if looked % _BATCH == 0:
            await asyncio.sleep(0)  # also where nothing is left of what there was
        entry = space.budget.find(key) if is_blob(key) else None
        if entry is None or space.is_moving(key):
            continue
        space.pin(key)
        try:
            problem = await _examine(space, key, entry, rate)
        finally:
            space.unpin(key)
        if problem is not None:
            if problem and not await _put_aside(space, key, problem):
                continue
            yield Checked(digest_of(key), entry.size, problem)


async def _examine(space: Space, key: bytes, entry: Entry, rate: int) -> str | None:
    """What is wrong with a blob; None where there is nothing that it could be said of."""
    digest = digest_of(key)
    try:
        fd = await space.disk.open(open_unnoticed, space.layout.path_of(key))
    except FileNotFoundError:
        return "its file is gone"
    except OSError as error:
        return None if error.errno in _NOT_NOW else f"its file cannot be opened: {error.strerror}"
    try:
        size = (await space.disk.run(os.fstat, fd)).st_size
        if size != entry.size:
            return f"its file has {size} bytes, and had {entry.size}"
        hasher, at = digest.hasher(), 0
        loop = asyncio.get_running_loop()
        while at < size:
            begun = loop.time()
            step = min(_HASH_BYTES, max(64 * 1024, rate // 4)) if rate else _HASH_BYTES
            count = await space.disk.run(hash_range, fd, at, min(at + step, size), hasher)
            if count == 0:
                return f"its file ends at byte {at}"
            at += count
            if rate:
                await asyncio.sleep(max(0.0, begun + count / rate - loop.time()))
    except OSError as error:
        return None if error.errno in _NOT_NOW else f"its file cannot be read: {error.strerror}"
    finally:
        space.disk.start(os.close, fd)
    actual = Digest.of_hash(hasher)
    return "" if actual == digest else f"its bytes hash to {actual}"


async def _put_aside(space: Space, key: bytes, problem: str) -> bool:
    """Put a damaged blob where nobody finds it; False when it has gone anyway."""
    digest = digest_of(key)
    try:
        moved = await quarantine(space, key)
    except DiskFailed as error:
        # Out of sight at least: nobody gets it any more.
        space.trouble(str(error), digest)
        moved = await space.remove(key)
    if moved:
        detail = f"{digest} on disk is damaged and was put aside: {problem}"
        space.events.emit(Event(Kind.CORRUPT, reference=digest, detail=detail))
    return moved


async def quarantine(space: Space, key: bytes) -> bool:
    """Put a blob aside, where nobody finds it; False when it is not there (any more).

    Raises `DiskFailed` when it cannot be moved; then it is where it was.
    """
    aside = quarantine_key(key)
    async with space.turn(aside), space.turn(key):
        entry = space.withdraw(key)
        if entry is None:
            return False
        await to_the_end(_move_aside(space, key, aside, entry))
    return True


async def _move_aside(space: Space, key: bytes, aside: bytes, entry: Entry) -> None:
    path, target = space.layout.path_of(key), space.layout.path_of(aside)
    try:
        left = await space.disk.run(_rename, path, target)
    except FileNotFoundError:
        space.budget.gone(entry)
    except OSError as error:
        space.budget.stay(entry)
        space.add(key, entry)
        raise DiskFailed(f"cannot put {digest_of(key)} aside: {error}") from error
    else:
        _forget(space, aside)  # the one that was put aside before
        space.budget.stay(entry)
        if left is not None:
            space.add(aside, left)
    await space.overhead.measure(path, target)


def _rename(path: str, target: str) -> Entry | None:
    """Move what is at a path; None where that was no file, which is removed."""
    os.rename(path, target)
    left = look(target)
    if left is None:
        os.unlink(target)
    return left


async def audit(space: Space, others: Others) -> Audit:
    """Compare what is counted with what is on disk, folder by folder, and count what is there.

    Files that are being written are left out on both sides: reservations stand for them.
    """
    await space.settled()
    drift = 0
    by_folder = await _keys_by_folder(space)
    missing = found = 0
    fresh, root_other = Others(), 0
    pending = [""]
    while pending:
        name = pending.pop()
        try:
            folder = await space.disk.run(read_folder, space.layout, name, tidy=False)
        except OSError as error:
            space.trouble(f"cannot read {space.layout.root}/{name}: {error}")
            fresh.note([name])
            continue
        # No await from here on, so that nothing is moved between looking and counting.
        before = space.budget.used
        pending += folder.folders
        fresh.note(folder.unknown)
        if name:
            fresh.bytes += folder.other
        else:
            root_other = folder.other
        space.overhead.set_folder(name, folder.disk)
        gone, new = _compare(space, folder, by_folder.pop(name, []))
        missing += gone
        found += new
        drift += space.budget.used - before
    drift -= await space.overhead.forget_gone()
    before = space.budget.used
    for keys in by_folder.values():  # folders that are not there any more
        missing += _compare(space, Folder(""), keys)[0]
    space.overhead.charge(fresh.bytes + root_other - space.overhead.other)
    drift += space.budget.used - before
    others.bytes, others.unknown, others.example = fresh.bytes, fresh.unknown, fresh.example
    used = space.budget.used
    return Audit(used - drift, used, missing, found, fresh.unknown, fresh.example)


async def _keys_by_folder(space: Space) -> dict[str, list[bytes]]:
    by_folder: dict[str, list[bytes]] = defaultdict(list)
    for counted, key in enumerate(space.budget.snapshot()):
        path = space.layout.path_of(key)
        by_folder[space.layout.name_of(os.path.dirname(path))].append(key)
        if counted % _BATCH == 0:
            await asyncio.sleep(0)
    return by_folder


def _compare(space: Space, folder: Folder, keys: list[bytes]) -> tuple[int, int]:
    """Count what is in a folder, of which `keys` were counted; how many were missing and new."""
    missing = found = 0
    for key, entry in folder.files():
        known = space.budget.find(key)
        if (known is not None and known.disk == entry.disk) or space.is_moving(key):
            continue
        if known is None:
            # Uploads and partial blobs that nobody counts are being written.
            if is_upload(key) or is_partial(key) or look(space.layout.path_of(key)) is None:
                continue
            found += 1
        else:
            # A blob of another size than it had is damaged, which is for `verify` to find.
            now = look(space.layout.path_of(key)) or entry
            entry = Entry(known.size if is_blob(key) else now.size, now.disk)
            _forget(space, key)
        space.add(key, entry)
    there = {key for key, _ in folder.files()}
    for key in keys:
        known = space.budget.find(key)
        absent = key not in there and known is not None and not space.is_moving(key)
        if absent and look(space.layout.path_of(key)) is None:
            _forget(space, key)
            missing += 1
    return missing, found


def _forget(space: Space, key: bytes) -> None:
    """What is freed by that shows when the file system is asked the next time."""
    entry = space.withdraw(key)
    if entry is not None:
        space.budget.stay(entry)
