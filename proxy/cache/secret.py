"""A key that outlives restarts, so that what was sealed with it stays good."""

from __future__ import annotations

import base64
import re
import secrets

import aiofiles

from proxy.cache.errors import CacheError
from proxy.cache.files import disk_bytes, replace
from proxy.cache.store import BlobStore

_SECRET = re.compile(rb"[A-Za-z0-9_-]{43}=")


async def load_secret(store: BlobStore) -> bytes:
    """32 random bytes in URL-safe base64: those of the last time, or new ones from now on.

    Raises `CacheError` when the directory gives none and takes none.
    """
    space = store.space
    path = space.layout.secret
    try:
        try:
            async with aiofiles.open(path, "rb") as file:
                secret = await file.read()
        except FileNotFoundError:
            secret = b""
        if _SECRET.fullmatch(secret) is None:
            await space.settled()  # or it might be counted twice
            secret = base64.urlsafe_b64encode(secrets.token_bytes(32))
            status, replaced = await space.disk.run(
                replace, f"{space.layout.incoming}/secret-0", path, secret
            )
            space.overhead.charge(disk_bytes(status) - replaced)
    except OSError as error:
        raise CacheError(f"the key in {path} can be neither read nor written: {error}") from error
    return secret
