"""The token in an upload's location: opaque, URL-safe, good for one repository only."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken

from proxy.errors import BlobUploadUnknown
from proxy.services.registries import Target


class UploadTokens:
    """Issues and reads tokens; with the same key they stay good across a restart.

    A token is base64url without padding: clients decode, re-sort and re-encode a location's query
    (BUILDKIT.md), so it stands in the path and needs no escaping.
    """

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def issue(self, name: str, target: Target) -> str:
        """A token for the upload of that name to that repository."""
        text = "\n".join((name, *target.key))
        return self._fernet.encrypt(text.encode()).decode().rstrip("=")

    def read(self, token: str, target: Target) -> str:
        """The upload's name; `BlobUploadUnknown` for what was never issued for this repository."""
        padded = token + "=" * (-len(token) % 4)
        try:
            name, *key = self._fernet.decrypt(padded.encode()).decode().split("\n")
        except (InvalidToken, UnicodeError) as error:
            raise _unknown(target) from error
        if tuple(key) != target.key:
            raise _unknown(target)
        return name


def _unknown(target: Target) -> BlobUploadUnknown:
    return BlobUploadUnknown(
        f"no such upload in {target.repository}: its location was not given by this proxy; "
        "begin a new one"
    )
