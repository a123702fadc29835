"""What is kept of a repository beside the blobs, so that a stand-in can be started again.

One JSON file a repository and one file a manifest; written whole, then renamed.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from proxy.oci import Digest
from proxy.standin.files import Files
from proxy.standin.image_rules import ImageFacts, read_image
from proxy.standin.refusals import Refusal
from proxy.standin.repository import Blob, Image, Mutability, Repository


def save(files: Files, repository: Repository) -> None:
    """Write down everything but the bytes of blobs."""
    directory = files.directory / "repositories"
    directory.mkdir(exist_ok=True)
    manifests = files.directory / "manifests"
    manifests.mkdir(exist_ok=True)
    for image in repository.images.values():
        path = manifests / image.digest.hex
        if not path.exists():
            _write(path, image.content)
    record = {
        "account": repository.account,
        "name": repository.name,
        "created_at": repository.created_at,
        "mutability": repository.mutability,
        "exclusions": repository.exclusions,
        "encryption": repository.encryption,
        "kms_key": repository.kms_key,
        "scan_on_push": repository.scan_on_push,
        "resource_tags": repository.resource_tags,
        "blobs": [[blob.digest, blob.size, blob.pushed_at] for blob in repository.blobs.values()],
        "images": [
            [image.digest, image.media_type, image.pushed_at, image.archived]
            for image in repository.images.values()
        ],
        "tags": repository.tags,
    }
    name = repository.name.replace("/", "%2F")
    _write(directory / f"{repository.account}-{name}.json", json.dumps(record).encode())


def load(files: Files) -> list[Repository]:
    """Everything that was saved, less the blobs whose bytes are gone."""
    paths = sorted((files.directory / "repositories").glob("*.json"))
    return [_load(files, json.loads(path.read_bytes())) for path in paths]


def load_secret(files: Files) -> bytes:
    """The secret that tokens are signed with: a token outlives a restart."""
    path = files.directory / "secret"
    if not path.exists():
        _write(path, secrets.token_bytes(32))
        path.chmod(0o600)
    return path.read_bytes()


def digest_of(file: BinaryIO) -> Digest:
    hasher = Digest.of(b"").hasher()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    return Digest.of_hash(hasher)


def _load(files: Files, record: dict[str, object]) -> Repository:
    repository = Repository(
        str(record["account"]),
        str(record["name"]),
        created_at=float(str(record["created_at"])),
        mutability=Mutability(str(record["mutability"])),
        exclusions=tuple(_list(record["exclusions"])),
        encryption=str(record["encryption"]),
        kms_key=None if record.get("kms_key") is None else str(record["kms_key"]),
        scan_on_push=bool(record.get("scan_on_push")),
        resource_tags=_strings(record.get("resource_tags")),
    )
    for digest, size, pushed_at in _list(record["blobs"]):
        if files.path_of(Digest(digest)).exists():
            repository.blobs[Digest(digest)] = Blob(Digest(digest), size, pushed_at)
    for digest, media_type, pushed_at, archived in _list(record["images"]):
        content = (files.directory / "manifests" / Digest(digest).hex).read_bytes()
        try:
            facts = read_image(content, media_type)
        except Refusal:  # put straight into the state by a test
            facts = ImageFacts()
        repository.put_image(
            Image(Digest(digest), content, media_type, facts, pushed_at, archived), None
        )
    tags = record["tags"]
    if isinstance(tags, dict):
        repository.tags.update((tag, Digest(digest)) for tag, digest in tags.items())
    return repository


def _strings(value: object) -> dict[str, str]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
