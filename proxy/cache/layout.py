"""Where things lie in a cache directory, who may read them, and which process owns it.

    lock                      held by the one process that uses the directory; its id is inside
    secret                    a key that outlives restarts
    blobs/sha256/ab/<hex>     verified blobs; a file is never changed once it is here
    records/<kind>/ab/<hex>   small things, each authenticated with the secret
    uploads/<name>            uploads on their way
    incoming/                 whatever is not whole yet; moved out by a rename
    quarantine/               blobs that were found damaged
    checkpoint                what a clean stop left: all of the above that was there then
    control.sock              where the command line finds the process

No name here ends in `.gz` or `.br`: a file server may take such a file for another's twin. In
memory a file goes by a short key: a letter, and what its path is made of.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.cache.errors import CacheError
from proxy.cache.ownership import check, secure
from proxy.oci import Digest

_ALGORITHMS: Final = {"sha256": b"2", "sha512": b"5"}
_RECORD: Final = b"r"
_UPLOAD: Final = b"u"
_PARTIAL: Final = b"p"
_QUARANTINED: Final = b"q"

# Kinds of records that take a client's help to bring back: they give way to one another alone.
_KEPT_KINDS: Final = frozenset({"alias", "debt"})

_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_UPLOAD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_KIND = re.compile(r"[a-z]{1,16}", re.ASCII)
_HEX = re.compile(r"[a-f0-9]+", re.ASCII)


class Layout:
    """Paths in one directory. Keys and names are checked here: no path leads out of it."""

    def __init__(self, directory: Path) -> None:
        self.root = os.path.abspath(directory)
        self.blobs = f"{self.root}/blobs"
        self.records = f"{self.root}/records"
        self.uploads = f"{self.root}/uploads"
        self.incoming = f"{self.root}/incoming"
        self.quarantine = f"{self.root}/quarantine"
        self.secret = f"{self.root}/secret"
        self.checkpoint = f"{self.root}/checkpoint"
        self.control = f"{self.root}/control.sock"
        self.lock = f"{self.root}/lock"

    def path_of(self, key: bytes) -> str:
        if key.startswith(_UPLOAD):
            return f"{self.uploads}/{key[1:].decode()}"
        if key.startswith(_PARTIAL):
            return f"{self.incoming}/{_flat_name(key[1:])}"
        if key.startswith(_QUARANTINED):
            return f"{self.quarantine}/{_flat_name(key[1:])}"
        if key.startswith(_RECORD):
            kind, _, rest = key[1:].partition(b"/")
            hexed = rest.hex()
            return f"{self.records}/{kind.decode()}/{hexed[:2]}/{hexed}"
        digest = digest_of(key)
        return f"{self.blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def folder_of_records(self, kind: str) -> str:
        """The folder with all records of a kind, in folders of their own."""
        return f"{self.records}/{kind}"

    def incoming_of(self, key: bytes) -> str:
        """Where a file is written before it is whole. One writer per key."""
        return f"{self.incoming}/{_flat_name(key)}"

    def name_of(self, path: str) -> str:
        """A path in the directory, below the root."""
        return path[len(self.root) + 1 :]

    def create(self) -> None:
        """Make the directories, for this user alone; raises `CacheError` where that cannot be."""
        try:
            os.makedirs(os.path.dirname(self.root), exist_ok=True)
            folders = (self.blobs, self.records, self.uploads, self.incoming, self.quarantine)
            for path in (self.root, *folders):
                with suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                if not os.path.isdir(path):
                    raise CacheError(
                        f"the cache directory {self.root} cannot be used: {path} is no directory; "
                        "choose another, or remove what is there"
                    )
                if path == self.root:
                    check(path)
            secure(self.root, folders)
        except OSError as error:
            raise _unusable(self.root, error) from error


def _flat_name(key: bytes) -> str:
    if key.startswith(_RECORD):
        kind, _, rest = key[1:].partition(b"/")
        return f"{kind.decode()}-{rest.hex()}"
    digest = digest_of(key)
    return f"{digest.algorithm}-{digest.hex}"


def is_leftover(name: str) -> bool:
    """Whether a file of that name in `incoming` is ours, and of no use to anybody."""
    kind, _, hexed = name.partition("-")
    known = kind not in _ALGORITHMS and _KIND.fullmatch(kind) is not None
    return known and _HEX.fullmatch(hexed) is not None


def blob_key(digest: Digest) -> bytes:
    return _ALGORITHMS[digest.algorithm] + bytes.fromhex(digest.hex)


def is_blob(key: bytes) -> bool:
    return key[:1] in _ALGORITHMS.values()


def is_upload(key: bytes) -> bool:
    return key.startswith(_UPLOAD)


def partial_key(blob: bytes) -> bytes:
    """The key of what there is of a blob that is not whole."""
    return _PARTIAL + blob


def is_partial(key: bytes) -> bool:
    return key.startswith(_PARTIAL)


def quarantine_key(blob: bytes) -> bytes:
    """The key of a blob that turned out to be damaged."""
    return _QUARANTINED + blob


def is_quarantined(key: bytes) -> bool:
    return key.startswith(_QUARANTINED)


def is_kept(key: bytes) -> bool:
    """Whether it is a promise: it gives way to later ones alone, and to a lowered budget."""
    return key.startswith(_RECORD) and key[1:].partition(b"/")[0].decode() in _KEPT_KINDS


def digest_of(key: bytes) -> Digest:
    """The digest of a blob's key."""
    for algorithm, letter in _ALGORITHMS.items():
        if key.startswith(letter):
            return Digest(f"{algorithm}:{key[1:].hex()}")
    raise ValueError(f"{key!r} is no key of a blob")


def upload_key(name: str) -> bytes:
    """Raises `ValueError` for a name that is not made of letters, digits, `-` and `_`."""
    if _UPLOAD_NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:80]!r} is no name of an upload")
    return _UPLOAD + name.encode()


def record_key(kind: str, identity_hash: bytes) -> bytes:
    """`identity_hash`: 32 bytes. Raises `ValueError` for a kind not made of lower-case letters."""
    if _KIND.fullmatch(kind) is None or len(identity_hash) != 32:
        raise ValueError(f"{kind[:80]!r} is no kind of record")
    return _RECORD + kind.encode() + b"/" + identity_hash


def key_at(relative: str) -> bytes | None:
    """The key of a file by its path below the root; None for what is not ours."""
    parts = relative.split("/")
    try:
        match parts:
            case ["uploads", name]:
                return upload_key(name)
            case ["incoming" | "quarantine" as folder, name]:
                algorithm, _, hexed = name.partition("-")
                prefix = _PARTIAL if folder == "incoming" else _QUARANTINED
                return prefix + blob_key(Digest.parse(f"{algorithm}:{hexed}"))
            case ["blobs", algorithm, shard, hexed] if hexed.startswith(shard) and len(shard) == 2:
                return blob_key(Digest.parse(f"{algorithm}:{hexed}"))
            case ["records", kind, shard, hexed] if hexed.startswith(shard) and len(shard) == 2:
                if _HEX.fullmatch(hexed) is None:
                    return None
                return record_key(kind, bytes.fromhex(hexed))
            case _:
                return None
    except ValueError:
        return None


class Lock:
    """Ownership of a cache directory, given up by `release` or with the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, layout: Layout) -> Lock:
        """Raises `CacheError` naming the process that has it."""
        try:
            fd = os.open(layout.lock, _LOCK_FLAGS, 0o600)
        except OSError as error:
            raise _unusable(layout.root, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise CacheError(
                f"the cache directory {layout.root} is in use by process {owner}: "
                "stop that one, or give this one a directory of its own"
            ) from error
        except OSError as error:
            os.close(fd)
            raise _unusable(layout.root, error) from error
        return cls(fd)

    def release(self) -> None:
        os.close(self._fd)


def _unusable(root: str, error: OSError) -> CacheError:
    return CacheError(
        f"the cache directory {root} cannot be used: {error.strerror or error}; "
        "choose another, or let this user write to it"
    )
