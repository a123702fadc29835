"""What lies in a cache directory: names, records and checkpoints, whoever put them there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from proxy.cache import checkpoint
from proxy.cache.layout import (
    Layout,
    is_blob,
    is_kept,
    is_leftover,
    is_partial,
    is_upload,
    key_at,
    record_key,
    upload_key,
)
from proxy.cache.policy import Entry
from proxy.cache.records import _open, _seal
from proxy.services.tags import _Heard
from tests.fuzz.documents import Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

_HEX: Final = hashlib.sha256(b"").hexdigest()
_PATHS: Final = (
    *(f"blobs/sha256/{_HEX[:2]}/{_HEX}", f"blobs/sha512/ab/ab{_HEX}{_HEX[2:]}"),
    *(f"records/alias/{_HEX[:2]}/{_HEX}", f"records/debt/{_HEX[:2]}/{_HEX}", "uploads/abc_-9"),
    *(f"incoming/sha256-{_HEX}", f"incoming/alias-{_HEX}", f"quarantine/sha256-{_HEX}"),
    *("lock", "secret", "checkpoint", "control.sock", "incoming/checkpoint-0"),
)
_TAG: Final = (f"sha256:{_HEX}", "application/vnd.oci.image.index.v1+json", 10, 1.5e9)

_SECRET: Final = b"s" * 32
_IDENTITY: Final = b'["alias", "registry", "app", "key"]'
_RECORDS: Final = (
    _seal(_SECRET, _IDENTITY, b"content"),
    _seal(b"x" * 32, _IDENTITY, b"content"),
    hashlib.sha256(_IDENTITY + b"\ncontent").hexdigest().encode()
    + b"\n"
    + _IDENTITY
    + b"\ncontent",
)


class _Disk:
    """A directory that these are tried in, without a cache's files."""

    def __init__(self, folder: Path) -> None:
        self._layout = Layout(folder / "cache")
        self._layout.create()
        packed = checkpoint.pack_entry(key_at(_PATHS[0]) or b"", Entry(10, 4096), 3)
        self._checkpoints = tuple(
            checkpoint.seal(
                self._layout,
                packed * count,
                count=count,
                folders={"blobs": 4096},
                other=0,
                unknown=0,
                example="",
            )
            for count in (0, 1, 5)
        )

    def check_name(self, relative: str) -> str:
        is_leftover(relative.rpartition("/")[2])
        key = key_at(relative)
        if key is None:
            return "not ours"
        root = self._layout.root
        path = self._layout.path_of(key)
        if path != f"{root}/{relative}" or os.path.normpath(path) != path:
            raise Wrong("a key that leads elsewhere")
        if os.path.commonpath((root, path)) != root:
            raise Wrong("a path that leads out of the directory")
        if not (is_upload(key) or is_partial(key)):
            is_kept(key)
        return "blob" if is_blob(key) else "other"

    def check_key(self, drawn: tuple[str, str]) -> str:
        said = []
        for make in (upload_key, lambda kind: record_key(kind, bytes(32))):
            for text in drawn:
                try:
                    path = self._layout.path_of(make(text))
                except ValueError:
                    continue
                if os.path.normpath(path) != path or not path.startswith(f"{self._layout.root}/"):
                    raise Wrong("a path that leads out of the directory")
                said.append("key")
        return "+".join(said) or "none"

    def draw_checkpoint(self, mutator: Mutator) -> bytes:
        return mutator.content(self._checkpoints)

    def check_checkpoint(self, data: bytes) -> str:
        Path(self._layout.checkpoint).write_bytes(data)
        found = checkpoint.take(self._layout)
        if os.path.exists(self._layout.checkpoint):
            raise Wrong("a checkpoint that is there twice")
        return "none" if found is None else f"{len(list(found.entries()))} entries"


def _draw_name(mutator: Mutator) -> str:
    return mutator.text(_PATHS)


def _draw_key(mutator: Mutator) -> tuple[str, str]:
    return mutator.text(("abc_-9", "a" * 64, "alias")), mutator.text(("alias", "debt", "tag"))


def _draw_record(mutator: Mutator) -> bytes:
    return mutator.content((*_RECORDS, b""))


def _check_record(data: bytes) -> str:
    if _open(_SECRET, data) is None:
        return "damaged"
    if data != _RECORDS[0]:
        raise Wrong("a record that nobody wrote")
    return "record"


def _draw_tag(mutator: Mutator) -> bytes:
    return Documents(mutator, (list(_TAG),)).content()


def _check_tag(content: bytes) -> str:
    try:
        _Heard.load(content)
    except ValueError:
        return "ValueError"
    return "tag"


def targets(folder: Path) -> tuple[Target, ...]:
    disk = _Disk(folder)
    return (
        Target("paths in the cache", _draw_name, disk.check_name, 2.0),
        Target("uploads' names", _draw_key, disk.check_key),
        Target("records", _draw_record, _check_record),
        Target("tags' records", _draw_tag, _check_tag, 0.5),
        Target("checkpoints", disk.draw_checkpoint, disk.check_checkpoint, 0.05),
    )
