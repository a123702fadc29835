"""Unix sockets in directories of any depth. A leaf.

The address of a socket has room for 108 bytes (unix(7), `sun_path`), and a cache directory may lie
deeper. So the directory is opened, and the socket named through the descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """Another path of the same file, short whatever the directory; raises `OSError` without one.

    It is good until the context is left.
    """
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
