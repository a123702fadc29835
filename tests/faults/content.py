"""Blobs that upstream has, what a client gets of them, and what was asked for them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import StandIn
from proxy.standin.journal import Recorded
from tests.running import RunningProxy

KIB = 1024
MIB = 1024 * KIB
TAIL = 16 * KIB  # what is withheld of a blob until it is verified
REPOSITORY = "app"
# What never comes is a failure, not a test without end.
_LIMIT = aiohttp.ClientTimeout(total=60)


def noise(size: int, seed: int) -> bytes:
    """So many bytes that no two places of have alike."""
    return random.Random(seed).randbytes(size)


def seed(standin: StandIn, *contents: bytes | Path) -> list[Digest]:
    """Put blobs in the repository, named by a manifest: ECR hands out no others."""
    sizes = [c.stat().st_size if isinstance(c, Path) else len(c) for c in contents]
    config = standin.state.put_blob(REPOSITORY, b"{}")
    digests = [standin.state.put_blob(REPOSITORY, content) for content in contents]
    described = {"mediaType": "application/octet-stream"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described | {"digest": config, "size": 2},
        "layers": [
            described | {"digest": digest, "size": size}
            for digest, size in zip(digests, sizes, strict=True)
        ],
    }
    standin.state.put_manifest(REPOSITORY, json.dumps(manifest).encode(), OCI_MANIFEST)
    return digests


def path_of(digest: str) -> str:
    return f"/v2/{REPOSITORY}/blobs/{digest}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a body, and whether the connection said that it was all."""

    status: int
    body: bytes
    whole: bool


async def take(
    proxy: RunningProxy, digest: str, *, headers: Mapping[str, str] | None = None
) -> Taken:
    body = bytearray()
    url = f"http://{proxy.address}{path_of(digest)}"
    async with proxy.client.session.get(url, headers=headers, timeout=_LIMIT) as response:
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except (aiohttp.ClientError, ConnectionError):
            return Taken(response.status, bytes(body), whole=False)
    return Taken(response.status, bytes(body), whole=True)


def downloads(standin: StandIn, digest: Digest | None = None) -> list[Recorded]:
    """The requests for a blob's bytes, or for those of any."""
    wanted = "" if digest is None else digest.hex
    return [
        r for r in standin.requests if r.server == "s3" and r.method == "GET" and wanted in r.path
    ]


def ranges(standin: StandIn, digest: Digest | None = None) -> list[str | None]:
    """The Range of each download, in their order."""
    return [request.header("Range") for request in downloads(standin, digest)]


def redirects(standin: StandIn, digest: Digest | None = None) -> int:
    """How often a blob's URL was asked for, and given."""
    wanted = "" if digest is None else digest.hex
    return sum(
        r.server == "registry" and r.status == 307 and wanted in r.path for r in standin.requests
    )


def files(proxy: RunningProxy) -> list[str]:
    """What there is of blobs on disk, whole or not."""
    root = proxy.settings.cache_dir
    found = [path for part in ("blobs", "incoming") for path in (root / part).rglob("*")]
    return sorted(str(path.relative_to(root)) for path in found if path.is_file())
