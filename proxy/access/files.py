"""A file of lines that is read again when it has changed: no restart for a new user."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from proxy.access.identity import AccessError
from proxy.openness import why_not_trusted

_log = logging.getLogger(__name__)

# A file may change twice within one tick of the file system's clock: what is so young is read
# again at the next look, whatever its times say.
_YOUNG_SECONDS: Final = 2.0

_Stamp: TypeAlias = tuple[int, int, int, int, int]

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What `parse` makes of a file's lines, as of the last time that the file made sense.

    `parse` takes the lines and raises `AccessError`. Invariant: `value` comes from one whole
    reading of the file; a new file that cannot be used changes nothing but the log.
    """

    def __init__(self, path: Path, parse: Callable[[str, str], T]) -> None:
        """Read it for the first time, blocking; raises `AccessError`."""
        self._path = path
        self._parse = parse
        self._stamp: _Stamp | None = None
        self._trouble: str | None = None
        found = self._read_changed(None)
        assert found is not None  # noqa: S101 there is no stamp to compare with
        self._stamp, self._content, self.value = found

    async def refresh(self) -> None:
        """Take a changed file in; logs once what is wrong with it."""
        try:
            found = await asyncio.to_thread(self._read_changed, self._stamp)
        except AccessError as error:
            self._stamp = None
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.error("what %s said before goes on: %s", self._path, error)
            return
        if found is None:
            return
        stamp, content, value = found
        if content != self._content or self._trouble is not None:
            _log.info("%s has changed, and was read again", self._path)
        self._stamp, self._content, self.value, self._trouble = stamp, content, value, None

    def _read_changed(self, known: _Stamp | None) -> tuple[_Stamp | None, bytes, T] | None:
        """The file's stamp, its bytes and what they mean; None if it is the one that is known."""
        try:
            # Follows links: Kubernetes changes a mounted secret by turning one.
            with self._path.open("rb") as file:
                status = os.stat(file.fileno())
                stamp = (
                    *(status.st_dev, status.st_ino, status.st_size),
                    *(status.st_mtime_ns, status.st_ctime_ns),
                )
                if stamp == known:
                    return None
                if (why := why_not_trusted(self._path, status.st_mode)) is not None:
                    raise AccessError(why)
                content = file.read()
        except OSError as error:
            raise AccessError(f"cannot read {self._path}: {error.strerror}") from error
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise AccessError(f"{self._path}, line {line}: this is no UTF-8") from error
        is_young = time.time() - max(status.st_mtime, status.st_ctime) < _YOUNG_SECONDS
        return None if is_young else stamp, content, self._parse(text, str(self._path))


def numbered_lines(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Each line that says something, after where it is: `FILE, line 3`. Comments begin with #."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if content and not content.startswith("#"):
            yield f"{source}, line {number}", content
