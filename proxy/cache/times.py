"""When files were last used, written to the files themselves: what is left of the order of use
after a stop that was not clean.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from proxy.cache.disk import Disk
from proxy.cache.layout import Layout

# Written down when so many have changed, and every now and then.
_MANY: Final = 1024


class Times:
    """Times of use that are not written down yet."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._touched: dict[bytes, int] = {}

    def touch(self, key: bytes) -> None:
        """A file is used now."""
        self._touched[key] = time.time_ns()

    def forget(self, key: bytes) -> None:
        """It is off the disk."""
        self._touched.pop(key, None)

    @property
    def keys(self) -> Sequence[bytes]:
        """Those that are not written down."""
        return list(self._touched)

    @property
    def are_many(self) -> bool:
        return len(self._touched) >= _MANY

    async def write(self) -> None:
        touched, self._touched = self._touched, {}
        times = [(self._layout.path_of(key), at) for key, at in touched.items()]
        if times:
            await self._disk.run(_set_times, times)


def _set_times(times: Sequence[tuple[str, int]]) -> None:
    for path, used_at in times:
        # It may have been evicted since, or be out of reach: then its order is lost, no more.
        with suppress(OSError):
            os.utime(path, ns=(used_at, os.stat(path).st_mtime_ns))
