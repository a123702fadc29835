"""An upload as upstream has it open: what was sent of it, at offsets that are counted here."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from proxy.cache import CacheError
from proxy.errors import RegistryError
from proxy.oci import Digest
from proxy.services.openings import Openings
from proxy.services.registries import Target
from proxy.upstream import Upload

_log = logging.getLogger(__name__)


class Content(Protocol):
    """Bytes that are here, and can be read as often as need be."""

    def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to `end` (exclusive); raises `CacheError`."""
        ...


class ContentLost(RegistryError):
    """What was to be sent can be read here no more: only a client that has it can bring it back."""

    code = "MANIFEST_BLOB_UNKNOWN"
    status = 404


class UpstreamUpload:
    """One upload upstream and how far it is. Invariant: `sent` bytes are in `upload`, 0 if None."""

    def __init__(
        self,
        target: Target,
        openings: Openings,
        upload: Upload | None = None,
        content: Content | None = None,
    ) -> None:
        self.target = target
        self.content = content
        self.upload = upload
        self.sent = 0
        self.moved: Callable[[], None] | None = None  # called as bytes set out
        self._openings = openings

    @property
    def min_part(self) -> int:
        return self.upload.min_part if self.upload is not None else 0

    async def open(self) -> Upload:
        """The upload, begun if there is none."""
        if self.upload is None:
            self.upload = await self._openings.open(self.target, patient=False)
            self.sent = 0
        return self.upload

    async def send(self, end: int) -> None:
        """Send the bytes up to `end` as one part; raises upstream's refusal, or `ContentLost`."""
        upload, start = await self.open(), self.sent
        self.upload = await self.target.registry.send_chunk(
            upload, offset=start, length=end - start, body=lambda: self._read(start, end)
        )
        self.sent = end

    async def commit(self, digest: Digest, size: int) -> None:
        """Send what is left of `size` bytes, and close the upload as that blob."""
        upload, start = await self.open(), self.sent
        await self.target.registry.finish_upload(
            upload,
            digest,
            offset=start,
            length=size - start,
            body=(lambda: self._read(start, size)) if size > start else None,
        )

    def forget(self) -> None:
        """What upstream has of it is not known any more: begin anew."""
        self.upload, self.sent = None, 0

    async def cancel(self) -> None:
        """Tell upstream that nothing comes of it; it matters to nobody whether that works."""
        upload, self.upload, self.sent = self.upload, None, 0
        if upload is not None:
            try:
                await self.target.registry.cancel_upload(upload)
            except RegistryError as error:
                # Whether ECR lets an upload be cancelled is unknown (ECR.md, last section); it
                # forgets it by itself.
                _log.debug("upstream did not cancel an upload: %s", error.message)

    async def _read(self, start: int, end: int) -> AsyncIterator[bytes]:
        assert self.content is not None  # noqa: S101 whoever sends has said what
        try:
            async for piece in self.content.read(start, end):
                yield piece
                if self.moved is not None:
                    self.moved()
        except CacheError as error:
            raise ContentLost(
                f"a blob pushed to {self.target.repository} can be read from the proxy's disk no "
                f"more ({error}): push it again"
            ) from error
