"""The Range header of a GET and the Content-Range of a chunk (RFC 9110 §14, distribution-spec)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.errors import BlobUploadInvalid, RangeInvalid

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII | re.IGNORECASE)
_CHUNK = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/\d{1,19}|/\*)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Range:
    """One byte range as asked for: `first` is None for the last `last` bytes of a blob."""

    first: int | None
    last: int | None

    @classmethod
    def parse(cls, header: str | None) -> Range | None:
        """None for no header, and for what a server may ignore and answer whole: other units,
        several ranges, what is no range at all (RFC 9110 §14.2).
        """
        match = _RANGE.fullmatch(header.strip()) if header is not None else None
        if match is None or match.group(0).endswith("=-"):
            return None
        first, last = (int(text) if text else None for text in match.groups())
        return cls(first, last)

    def resolve(self, total: int) -> tuple[int, int]:
        """First byte and the one after the last, within a blob of `total` bytes.

        Raises `RangeInvalid` (416) when no byte of the blob is in it.
        """
        if self.first is None:
            assert self.last is not None  # noqa: S101 parse() lets no other shape through
            first, end = max(0, total - self.last), total
        else:
            first, end = self.first, total if self.last is None else min(self.last + 1, total)
        if first >= end:
            raise RangeInvalid(
                f"the range asked for has no byte of this blob of {total} bytes",
                headers={"Content-Range": f"bytes */{total}"},
            )
        return first, end


def parse_chunk(header: str | None, length: int | None) -> int | None:
    """The offset that a chunk's Content-Range names, None without one.

    `length` is the Content-Length in bytes, None for a body of unknown length. Raises
    `BlobUploadInvalid` for what is no range or does not fit the length.
    """
    if header is None:
        return None
    match = _CHUNK.fullmatch(header.strip())
    if match is None:
        raise BlobUploadInvalid(
            f"Content-Range {header[:80]!r} is no chunk's range: expected START-END in bytes"
        )
    start, last = (int(text) for text in match.groups())
    if last < start or (length is not None and last - start + 1 != length):
        raise BlobUploadInvalid(
            f"Content-Range {header[:80]!r} does not fit a body of {length} bytes"
        )
    return start
