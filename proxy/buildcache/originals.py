"""A client's manifest, carried along inside the one that is stored for it: zlib, then base64."""

from __future__ import annotations

import base64
import zlib

from proxy.oci import MAX_MANIFEST_BYTES


def pack(content: bytes) -> str:
    """The text of an annotation that `unpack` makes `content` from."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def unpack(text: str) -> bytes | None:
    """What was packed; None if `text` is nothing of the kind, or of more than 4 MiB unpacked.

    Anybody may push such an annotation, so no more is ever unpacked than a manifest can have.
    """
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), MAX_MANIFEST_BYTES + 1)
    except (ValueError, zlib.error):
        return None
    is_whole = unpacker.eof and not unpacker.unused_data
    return content if is_whole and len(content) <= MAX_MANIFEST_BYTES else None
