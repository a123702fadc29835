"""The token in an upload's location: opaque, URL-safe, good for one repository and user."""

from __future__ import annotations

import base64
import re
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from proxy.errors import BlobUploadUnknown
from proxy.services.registries import Target

# Decoding passes over all else, line breaks among them; and a token becomes part of a header.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class UploadTokens:
    """Issues and reads tokens; with the same key they stay good across a restart.

    A token is base64url without padding: clients decode, re-sort and re-encode a location's query
    (BUILDKIT.md), so it stands in the path and needs no escaping.
    """

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def issue(self, name: str, target: Target) -> str:
        """A token for the upload of that name to that repository, begun by the target's client."""
        text = "\n".join((name, *target.key, target.client))
        return self._fernet.encrypt(text.encode()).decode().rstrip("=")  # as `_encoded`

    def read(self, token: str, target: Target) -> tuple[str, str]:
        """The upload's name, and the client that began it.

        Raises `BlobUploadUnknown` for what was never issued for this repository, nor for this user:
        a location stands in logs. An address may change under a client.
        """
        if _TOKEN.fullmatch(token) is None:
            raise _unknown(target)
        padded = (token + "=" * (-len(token) % 4)).encode()
        try:
            # Nor may bits differ that stand for nothing: there is one way to write a token.
            if _encoded(base64.urlsafe_b64decode(padded)) != token:
                raise _unknown(target)
            text = self._fernet.decrypt(padded).decode()
            # Last what may hold anything, as a user's name.
            name, registry, repository, client = text.split("\n", 3)
        except (InvalidToken, ValueError) as error:
            raise _unknown(target) from error
        if (registry, repository) != target.key or target.user not in ("", client):
            raise _unknown(target)
        return name, client


def _encoded(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _unknown(target: Target) -> BlobUploadUnknown:
    return BlobUploadUnknown(
        f"no such upload in {target.repository}: its location was not given by this proxy; "
        "begin a new one"
    )
