"""How a secret can look in what is let out. Pure: a value in, its forms out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """The name of each encoding, and what it makes of a value wherever that stands in a text.

    Names come more than once where an encoding has several forms, as base64 has three: the value
    may begin at any of three bytes of what is encoded.
    """
    raw = value.encode()
    yield "raw", raw
    yield "lower case", raw.lower()
    yield "JSON", json.dumps(value)[1:-1].replace("/", "\\/").encode()
    yield "repr", repr(value)[1:-1].encode()
    yield "bytes' repr", repr(raw)[2:-1].encode()
    yield "hex", raw.hex().encode()
    yield "hex", raw.hex().upper().encode()
    # No encoder escapes letters, but whoever wants to hide something does.
    yield "URL-encoded, every byte", "".join(f"%{byte:02X}" for byte in raw).encode()
    yield "URL-encoded, every byte", "".join(f"%{byte:02x}" for byte in raw).encode()
    yield from _escaped("", value)
    yield from _encoded("", raw)
    for once in aligned(raw):  # as in a Basic header
        yield from _escaped("base64, ", once.decode())
        yield from _encoded("base64, ", once)
    for once in aligned(raw):
        yield from _encoded("base64url, ", once.translate(_URL_SAFE))


def _escaped(before: str, text: str) -> Iterator[tuple[str, bytes]]:
    once = quote(text, safe="")
    yield f"{before}URL-encoded", once.encode()
    yield f"{before}URL-encoded", _lower_escapes(once).encode()
    yield f"{before}URL-encoded but for /", quote(text, safe="/").encode()
    yield f"{before}URL-encoded twice", quote(once, safe="").encode()
    yield f"{before}URL-encoded twice", quote(_lower_escapes(once), safe="").encode()


def _encoded(before: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    for encoded in aligned(raw):
        yield f"{before}base64", encoded
        yield f"{before}base64url", encoded.translate(_URL_SAFE)


def _lower_escapes(text: str) -> str:
    first, *others = text.split("%")
    return "%".join([first, *(other[:2].lower() + other[2:] for other in others)])


def aligned(raw: bytes) -> Iterator[bytes]:
    """The characters of base64 that a value makes alone, at each of its three alignments.

    Characters that the bytes before or after it have a part in are left out.
    """
    for skipped in range(3):
        whole = raw[(3 - skipped) % 3 :]
        yield base64.b64encode(whole[: len(whole) // 3 * 3])
