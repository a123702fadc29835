"""A key that outlives restarts, so that what was sealed with it stays good."""

from __future__ import annotations

import base64
import os
import re
import secrets
from typing import Final

import aiofiles

from proxy.cache.errors import CacheError
from proxy.cache.files import read_whole, replace
from proxy.cache.layout import Layout

_SECRET: Final = re.compile(rb"[A-Za-z0-9_-]{43}=")


def ensure_secret(layout: Layout) -> None:
    """See that there is a key: that of the last time, or a new one from now on. Blocking.

    To be called before the directory is read, which counts it. Raises `CacheError` when the
    directory gives none and takes none.
    """
    try:
        try:
            secret = read_whole(layout.secret)
        except FileNotFoundError:
            secret = b""
        if _SECRET.fullmatch(secret) is None:
            secret = base64.urlsafe_b64encode(secrets.token_bytes(32))
            replace(f"{layout.incoming}/secret-0", layout.secret, secret)
    except OSError as error:
        raise _unusable(layout, error) from error


async def load_secret(layout: Layout) -> bytes:
    """32 random bytes in URL-safe base64; raises `CacheError` when they cannot be had."""
    try:
        async with aiofiles.open(layout.secret, "rb", opener=_open_no_link) as file:
            secret = await file.read()
    except OSError as error:
        raise _unusable(layout, error) from error
    if _SECRET.fullmatch(secret) is None:
        raise CacheError(f"{layout.secret} was damaged just now; start again, for a new one")
    return secret


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _unusable(layout: Layout, error: OSError) -> CacheError:
    return CacheError(
        f"the key in {layout.secret} can be neither read nor written: {error.strerror or error}"
    )
