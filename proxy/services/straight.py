"""An upload that finds no room on disk: straight through memory, a part at a time."""

from __future__ import annotations

from typing import Final

from proxy.oci import Digest
from proxy.services.outgoing import UpstreamUpload
from proxy.services.window import Window

_PART: Final = 10 * 1024 * 1024  # how ECR cuts streams itself (ECR.md §4)


class Straight:
    """Bytes that upstream gets before more of them are taken in; `size` counts all of them.

    A part that upstream loses cannot be replaced: any failure ends the upload.
    """

    def __init__(self, upload: UpstreamUpload) -> None:
        self._window = Window(start=upload.sent)
        self._upload = upload
        upload.content = self._window

    @property
    def size(self) -> int:
        return self._window.size

    async def append(self, chunk: bytes) -> None:
        """Take in more, and send a part when there is one; raises upstream's words."""
        await self._window.append(chunk)
        while self._window.size - self._upload.sent >= _PART:
            await self._upload.open()  # it says what the least of a part is
            end = self._upload.sent + max(_PART, self._upload.min_part)
            if self._window.size < end:
                break
            await self._upload.send(end)
            self._window.release(end)

    async def commit(self, digest: Digest) -> None:
        """Send what is left, and close the upload as that blob; upstream checks the digest."""
        await self._upload.commit(digest, self._window.size)

    async def cancel(self) -> None:
        await self._upload.cancel()
