"""A small image on disk, in the OCI image layout, made without any of the clients under test."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def write_image(folder: Path, *, tag: str, layers: int = 2) -> str:
    """Writes an image of random layers, 100 kB each; returns the digest of its manifest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def store(content: bytes, media_type: str) -> dict[str, object]:
        sha256 = hashlib.sha256(content).hexdigest()
        (blobs / sha256).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(content)}

    archives = [_archive(f"file{number}", os.urandom(100_000)) for number in range(layers)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": store(json.dumps(config).encode(), _CONFIG),
        "layers": [store(gzip.compress(archive, mtime=0), _LAYER) for archive in archives],
    }
    descriptor = store(json.dumps(manifest).encode(), _MANIFEST)
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return str(descriptor["digest"])


def manifest_digest(folder: Path) -> str:
    """The digest of the one image in an OCI layout."""
    (descriptor,) = json.loads((folder / "index.json").read_text())["manifests"]
    return str(descriptor["digest"])


def _archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
