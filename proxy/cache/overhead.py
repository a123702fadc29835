"""What is on disk besides the entries: folders, and files of another kind or not ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from proxy.cache.budget import Budget
from proxy.cache.disk import Disk
from proxy.cache.files import directory_bytes
from proxy.cache.layout import Layout


class Overhead:
    """Counted in the budget and never evicted.

    `folders` are what each takes itself by its path below the root, `other` is what files that are
    no entries take; in bytes as the file system counts them.
    """

    def __init__(self, layout: Layout, disk: Disk, budget: Budget) -> None:
        self.folders: dict[str, int] = {}
        self.other = 0
        self._layout = layout
        self._disk = disk
        self._budget = budget

    def begin(self, folders: Mapping[str, int], other: int) -> None:
        """What there is at the start."""
        for path, size in folders.items():
            self.set_folder(path, size)
        self.charge(other)

    def charge(self, size: int) -> None:
        """So many bytes more are taken by files that are no entries."""
        self.other += size
        self._budget.charge(size)

    def set_folder(self, path: str, size: int) -> None:
        self._budget.charge(size - self.folders.get(path, 0))
        self.folders[path] = size

    async def measure(self, *paths: str) -> None:
        """Account for the folders that files were, or were to be, moved from or to."""
        folders = {os.path.dirname(path) for path in paths}
        folders |= {os.path.dirname(folder) for folder in folders}
        for folder, size in (await self._disk.run(directory_bytes, folders)).items():
            self.set_folder(self._layout.name_of(folder), size)

    async def forget_gone(self) -> int:
        """Count no folder that is gone; gives the bytes that were counted for them."""
        freed = 0
        for path in await self._disk.run(_gone, self._layout.root, list(self.folders)):
            size = self.folders.pop(path, 0)
            self._budget.charge(-size)
            freed += size
        return freed


def _gone(root: str, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.isdir(f"{root}/{path}")]
