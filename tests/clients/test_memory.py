"""No body is held in memory: what the proxy takes does not grow with the size of a blob."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator

import aiohttp

from proxy.oci import OCI_MANIFEST
from proxy.standin import StandIn

from .serving import ServedProxy

MIB = 1024 * 1024
PIECE = random.Random(7).randbytes(MIB)
ALLOWANCE = 48 * MIB  # for what the allocator keeps, whatever the size


async def _content(mebibytes: int) -> AsyncIterator[bytes]:
    for number in range(mebibytes):
        yield number.to_bytes(8, "big") + PIECE[8:]


async def _digest(mebibytes: int) -> str:
    hasher = hashlib.sha256()
    async for piece in _content(mebibytes):
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


async def _push(address: str, repository: str, mebibytes: int, digest: str) -> None:
    """As docker and skopeo do: one PATCH of unknown length, then an empty PUT."""
    base = f"http://{address}"
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base}/v2/{repository}/blobs/uploads/") as started:
            location = started.headers["Location"]
        async with session.patch(base + location, data=_content(mebibytes)) as sent:
            assert sent.status == 202, await sent.text()
        async with session.put(f"{base}{location}?digest={digest}") as done:
            assert done.status == 201, await done.text()


async def _pull(address: str, repository: str, digest: str) -> str:
    hasher = hashlib.sha256()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/v2/{repository}/blobs/{digest}") as got,
    ):
        assert got.status == 200, await got.text()
        async for chunk in got.content.iter_any():
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


def _refer(standin: StandIn, repository: str, digest: str, size: int) -> None:
    """ECR hands out no blob that no manifest names."""
    config = standin.state.put_blob(repository, b"{}")
    described = {"mediaType": "application/octet-stream"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described | {"digest": config, "size": 2},
        "layers": [described | {"digest": digest, "size": size}],
    }
    standin.state.put_manifest(repository, json.dumps(manifest).encode(), OCI_MANIFEST)


def _peak(live_proxy: ServedProxy, standin: StandIn, repository: str, mebibytes: int) -> int:
    """The peak of a process that pushed the blob or of one that pulled it on a cold cache."""
    digest = asyncio.run(_digest(mebibytes))
    live_proxy.restart(empty_cache=True)
    asyncio.run(_push(live_proxy.address, repository, mebibytes, digest))
    pushing = live_proxy.peak_memory()
    _refer(standin, repository, digest, mebibytes * MIB)
    live_proxy.restart(empty_cache=True)
    assert asyncio.run(_pull(live_proxy.address, repository, digest)) == digest
    return max(pushing, live_proxy.peak_memory())


def test_memory_does_not_grow_with_the_size_of_a_blob(
    live_proxy: ServedProxy, standin: StandIn, repository: str
) -> None:
    small = _peak(live_proxy, standin, repository, 8)
    large = _peak(live_proxy, standin, repository, 256)
    assert large - small < ALLOWANCE, f"{small / MIB:.0f} MiB, then {large / MIB:.0f} MiB"
