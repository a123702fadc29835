"""A cache directory with blobs in it, as a proxy leaves it, and damage done to them."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.cache import BlobStore
from proxy.cache.layout import Layout, blob_key
from proxy.events import Events
from proxy.oci import Digest

ROOMY = 1024 * 1024 * 1024


async def fill(directory: Path, *contents: bytes) -> list[Digest]:
    """Store blobs in a directory that nothing runs on, and give it up again."""
    store = await BlobStore.open(directory, budget=ROOMY, events=Events())
    try:
        await store.settled()
        return [await put(store, content) for content in contents]
    finally:
        await store.close()


async def put(store: BlobStore, content: bytes) -> Digest:
    digest = Digest.of(content)
    spool = await store.create_spool(digest.hex)
    await spool.append(content)
    await spool.publish(digest)
    return digest


def file_of(directory: Path, digest: Digest) -> Path:
    return Path(Layout(directory).path_of(blob_key(digest)))


def damage(directory: Path, digest: Digest) -> None:
    """Flip one bit in the middle of a blob, as a bad disk does."""
    path = file_of(directory, digest)
    with path.open("r+b") as file:
        middle = os.fstat(file.fileno()).st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
