"""From a directory to its space: by the checkpoint of a clean stop, else by reading all of it.

Both go on behind the first requests. What is counted comes in the order of its last use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from typing import Final

from proxy.cache import checkpoint
from proxy.cache.checkpoint import Checkpoint
from proxy.cache.errors import CacheError, NoSpace
from proxy.cache.files import remove, replace
from proxy.cache.layout import is_upload
from proxy.cache.scan import read_folder, unpack
from proxy.cache.space import Space

_log = logging.getLogger(__name__)

# More than a checkpoint takes without its entries, and for each of them.
_CHECKPOINT_BYTES: Final = 256 * 1024
_ENTRY_BYTES: Final = 96

# Entries counted in one go: a millisecond or two, in which nobody is served.
_BATCH: Final = 500


class _Pace:
    """Leaves half of the time to others: to the rest of the start, and to the first requests."""

    def __init__(self) -> None:
        self._steps = 0
        self._began = time.perf_counter()

    async def step(self) -> None:
        self._steps += 1
        if self._steps % _BATCH == 0:
            await asyncio.sleep(time.perf_counter() - self._began)
            self._began = time.perf_counter()


@dataclass(slots=True)
class Others:
    """Files that are no entries: their bytes as the file system counts them, those in the root
    itself left out, and how many files and folders are not ours, of which `example` is one.
    """

    bytes: int = 0
    unknown: int = 0
    example: str = ""

    def note(self, unknown: list[str]) -> None:
        self.unknown += len(unknown)
        if unknown and not self.example:
            self.example = unknown[0]


async def load(space: Space, others: Others) -> None:
    """Count what is in the directory; raises `CacheError` when it cannot be read."""
    try:
        found = await space.disk.run(checkpoint.take, space.layout)
        if found is None:
            await _scan(space, others)
        else:
            space.load_deadline = None  # it takes a second or two at the most
            await _restore(space, found, others)
    except OSError as error:
        raise CacheError(
            f"the cache directory {space.layout.root} cannot be read: {error}; "
            "let this user read it, or choose another"
        ) from error
    if others.unknown:
        _log.warning(
            "%d files or folders in %s are not ours and are left alone, %r among them",
            others.unknown,
            space.layout.root,
            others.example,
        )


async def _restore(space: Space, found: Checkpoint, others: Others) -> None:
    pace = _Pace()
    for key, entry, mark in found.entries():
        if not is_upload(key):
            space.load(key, entry, mark)
        await pace.step()
    # Few, and some may be too old by now: these are looked at.
    root = await space.disk.run(read_folder, space.layout, "", tidy=True)
    uploads = await space.disk.run(read_folder, space.layout, "uploads", tidy=True)
    for key, entry in uploads.files():
        space.load(key, entry)
    others.bytes, others.unknown, others.example = found.other, found.unknown, found.example
    await space.complete(found.folders, found.other + root.other)


async def _scan(space: Space, others: Others) -> None:
    """Read every folder, one after the other, so that requests are served in between."""
    layout = space.layout
    root = await space.disk.run(read_folder, layout, "", tidy=True)
    folders = {"": root.disk}
    others.note(root.unknown)
    pending, packed = list(root.folders), []
    while pending:
        name = pending.pop()
        try:
            folder = await space.disk.run(read_folder, layout, name, tidy=True)
        except OSError as error:
            # What is in it cannot be used, and is not counted; the rest can.
            space.trouble(f"cannot read {layout.root}/{name}: {error}")
            others.note([name])
            continue
        folders[name] = folder.disk
        others.bytes += folder.other
        others.note(folder.unknown)
        pending += folder.folders
        packed.append(folder.pack())
    streams = [unpack(part) for part in packed]
    pace = _Pace()
    for _, key, entry in merge(*streams, key=lambda file: file[0]):
        space.load(key, entry)
        await pace.step()
    await space.complete(folders, others.bytes + root.other)


async def write_checkpoint(space: Space, others: Others) -> None:
    """Write down what there is, at a clean stop, when nothing changes any more.

    Without room for it, or when the disk refuses it, there is none: the next start reads the
    directory.
    """
    try:
        # First, since making room may take entries away.
        room = await space.reserve(_CHECKPOINT_BYTES + _ENTRY_BYTES * len(space.budget))
    except NoSpace as error:
        _log.info("no checkpoint is kept, so the next start reads the directory: %s", error)
        return
    with room:
        # Nobody is served any more who could be held up.
        pieces = [checkpoint.pack_entry(*entry) for entry in space.budget.entries()]
        try:
            await space.disk.run(_write_checkpoint, space, b"".join(pieces), len(pieces), others)
        except OSError as error:
            _log.warning("no checkpoint is kept, so the next start reads it all: %s", error)
            with suppress(OSError):
                await space.disk.run(remove, space.layout.checkpoint)


def _write_checkpoint(space: Space, packed: bytes, count: int, others: Others) -> None:
    content = checkpoint.seal(
        space.layout,
        packed,
        count=count,
        folders=space.overhead.folders,
        other=others.bytes,
        unknown=others.unknown,
        example=others.example,
    )
    replace(f"{space.layout.incoming}/checkpoint-0", space.layout.checkpoint, content)
