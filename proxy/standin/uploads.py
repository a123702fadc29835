"""An upload under way: its parts, its running hash, its file. The rules of ECR.md §4, no HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from pathlib import Path
from typing import Final

from proxy.oci import Digest
from proxy.standin.refusals import Kind, Refusal
from proxy.standin.settings import MIB

PART: Final = 10 * MIB  # the front end cuts a stream into parts of this size
MIN_PART: Final = 5 * MIB
MAX_PARTS: Final = 4200
MAX_LAYER: Final = 52_000 * MIB

# distribution-spec: `<start>-<end>`; some clients write the form of RFC 9110 §14.4.
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,15})-(\d{1,15})(?:/(?:\d+|\*))?")


class Upload:
    """Invariant: the file holds `size` bytes, `_hash` stands at their digest, and once no request
    is under way (`lock` is free) they are the sum of `parts`."""

    def __init__(self, account: str, name: str, directory: Path) -> None:
        self.id = str(uuid.uuid4())
        self.account = account
        self.name = name
        self.path = directory / self.id
        self.size = 0
        self.parts: list[int] = []
        self.first_part: int | None = None
        self.lock = asyncio.Lock()
        self._hash = hashlib.sha256()

    def append(self, chunks: list[bytes]) -> None:
        """Write and hash. Blocks: for a thread, one call at a time."""
        with self.path.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                self._hash.update(chunk)
                self.size += len(chunk)

    def end_request(self, before: int) -> None:
        """Account for what one request appended beyond `before` bytes: cut it into parts."""
        added = self.size - before
        if added > 0 and self.first_part is None:
            self.first_part = added
        while added > 0:
            self.parts.append(min(PART, added))
            added -= PART
        if len(self.parts) > MAX_PARTS or self.size > MAX_LAYER:
            raise Refusal(
                Kind.LIMIT, f"Layer with more than {MAX_PARTS} parts or {MAX_LAYER} bytes"
            )

    def check_start(self, start: int) -> None:
        """Refuse a request whose bytes do not begin where the upload stands."""
        if start != self.size:
            raise Refusal(
                Kind.UPLOAD_OFFSET,
                f"First byte of the layer part is {start} instead of {self.size}",
            )

    def check_complete(self, digest: Digest) -> None:
        """Everything ECR looks at in CompleteLayerUpload."""
        if not self.parts:
            raise Refusal(
                Kind.UPLOAD_EMPTY,
                f"The upload with id '{self.id}' in the repository with name '{self.name}' in "
                f"registry with id '{self.account}' cannot be completed because it does not have "
                "any parts",
            )
        if any(part < MIN_PART for part in self.parts[:-1]):
            raise Refusal(
                Kind.UPLOAD_PART, "All layer parts except the last part should be at least 5MB"
            )
        if Digest.of_hash(self._hash) != digest:
            raise Refusal(
                Kind.UPLOAD_DIGEST,
                "None of the provided layer digests match the calculated layer digest",
            )


def parse_content_range(text: str) -> tuple[int, int]:
    """First and last byte; raises a refusal for anything else."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise Refusal(Kind.UPLOAD_OFFSET, f"Invalid Content-Range '{text[:100]}'")
    return int(match[1]), int(match[2])
