"""Static tokens: long random secrets, of which only the hash is kept."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from proxy.access.credentials import Credentials
from proxy.access.files import WatchedFile, numbered_lines
from proxy.access.identity import AccessError, Identity, check_user

# So that whoever finds one in a log or a repository knows what it opens.
PREFIX: Final = "ecp_"
_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_REMEDY: Final = "make a token and its line with: ecr-cache-proxy token USER"
# Clients that must send a user name with a token, and know none.
_ANY_OWNER: Final = "token"


def new_token() -> str:
    """A token that nobody can guess: a plain hash of it is as good as a slow one."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).rstrip(b"=").decode()


def token_line(user: str, token: str) -> str:
    """What stands for the token in a file, `USER:sha256:HEX`; raises `ValueError`."""
    return f"{check_user(user)}:sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def parse_token_file(text: str, source: str) -> Mapping[bytes, str]:
    """The user of each token by the token's SHA-256; raises `AccessError`, which names the line."""
    return _parse(numbered_lines(text, source))


def parse_token_settings(lines: Iterable[str]) -> Mapping[bytes, str]:
    """The same for the setting `tokens`."""
    return _parse((f"tokens, entry {n}", line) for n, line in enumerate(lines, 1))


def _parse(lines: Iterable[tuple[str, str]]) -> Mapping[bytes, str]:
    """No message repeats a line, which may hold the token itself by mistake."""
    owners: dict[bytes, str] = {}
    for where, line in lines:
        user, _, rest = line.partition(":")
        kind, _, digest = rest.partition(":")
        if kind != "sha256" or not _HEX.fullmatch(digest):
            problem = (
                "this is a token itself, and only hashes are kept here: replace it"
                if PREFIX in line
                else "there is no USER:sha256:HEX"
            )
            raise AccessError(f"{where}: {problem}; {_REMEDY}")
        try:
            check_user(user)
        except ValueError as error:
            raise AccessError(f"{where}: {error}") from error
        key = bytes.fromhex(digest)
        if owners.get(key, user) != user:
            raise AccessError(f"{where}: another user has the same token; {_REMEDY}")
        owners[key] = user
    return MappingProxyType(owners)


class Tokens:
    """Knows a token by its hash: at once, and always at the same cost."""

    def __init__(
        self, fixed: Mapping[bytes, str], file: WatchedFile[Mapping[bytes, str]] | None
    ) -> None:
        self._fixed = fixed
        self._file = file

    async def refresh(self) -> None:
        if self._file is not None:
            await self._file.refresh()

    def recall(self, credentials: Credentials) -> Identity | None:
        """The token's user, if it comes by itself, from that user, or from the user `token`."""
        key = hashlib.sha256(credentials.secret).digest()
        owner = self._fixed.get(key)
        if owner is None and self._file is not None:
            owner = self._file.value.get(key)
        if owner is None or credentials.user not in (None, owner, _ANY_OWNER):
            return None
        return Identity(owner)

    async def verify(self, credentials: Credentials) -> Identity | None:
        """Nothing that `recall` did not know; only what changed meanwhile."""
        return self.recall(credentials)

    async def close(self) -> None:
        """Holds nothing that must be let go."""
