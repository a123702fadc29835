"""What a client sends in its Authorization header, parsed once."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Final

# Longer than any password or token of ours. A token of ECR's, which a client may send by mistake,
# is not looked at any closer.
_MAX_CHARACTERS: Final = 16 * 1024


class CredentialsMalformed(Exception):
    """An Authorization header that holds no credentials; says why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A secret, and the user whose it is to be: None for a token that comes by itself."""

    user: str | None
    secret: bytes = field(repr=False)


def parse_authorization(header: str) -> Credentials:
    """The credentials of `Basic` (RFC 7617, in UTF-8) or `Bearer` (RFC 6750 §2.1).

    Raises `CredentialsMalformed`.
    """
    if len(header) > _MAX_CHARACTERS:
        raise CredentialsMalformed("the Authorization header is longer than any that is right here")
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    match scheme.lower():
        case "basic":
            return _parse_basic(value)
        case "bearer" if value:
            return Credentials(None, value.encode("utf-8", "surrogateescape"))
        case "bearer":
            raise CredentialsMalformed("the Authorization header is Bearer without a token")
        case _:
            raise CredentialsMalformed(
                "the Authorization header is neither Basic nor Bearer, which are known here"
            )


def _parse_basic(value: str) -> Credentials:
    try:
        # Some clients leave the padding out.
        pair = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CredentialsMalformed("the Basic credentials are no base64") from error
    name, colon, secret = pair.partition(b":")
    if not colon:
        raise CredentialsMalformed("the Basic credentials have no colon after the user")
    try:
        user = name.decode()
        secret.decode()
    except UnicodeDecodeError as error:
        raise CredentialsMalformed("the Basic credentials are no UTF-8") from error
    return Credentials(user, secret)


def fingerprint(key: bytes, *parts: bytes) -> bytes:
    """What stands for secrets in memory: without the key nothing can be tried against it."""
    digest = hashlib.blake2b(key=key, digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
