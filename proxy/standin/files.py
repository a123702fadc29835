"""The bytes of blobs on disk, one file a digest, whichever repositories hold it.

Blobs are never read into memory here; who may have them is for `repository` to say.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from proxy.oci import Digest


class Files:
    """A directory: `blobs/<hex>`, `uploads/<id>`, and whatever `records` keeps beside them."""

    def __init__(self, directory: Path | None) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="standin-"))
        self.blobs = self.directory / "blobs"
        self.uploads = self.directory / "uploads"
        for path in (self.blobs, self.uploads):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def is_kept(self) -> bool:
        """Whether the directory outlives this process."""
        return not self._temporary

    def path_of(self, digest: Digest) -> Path:
        return self.blobs / digest.hex

    def adopt(self, path: Path, digest: Digest) -> None:
        """Take over an upload's file, whose digest was checked."""
        path.replace(self.path_of(digest))

    def write(self, content: bytes, digest: Digest) -> None:
        path = self.uploads / f"{digest.hex}.new"
        path.write_bytes(content)
        self.adopt(path, digest)

    def remove(self, digest: Digest) -> None:
        self.path_of(digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Drop what no later start could use: unfinished uploads, or all of it."""
        shutil.rmtree(self.directory if self._temporary else self.uploads, ignore_errors=True)
