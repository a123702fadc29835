"""Small things kept per registry and repository: each in a file of its own, and authenticated.

A record stands for what upstream said, or for what a client was promised. So each carries a hash
keyed with the directory's own secret: one that somebody else has written, or that was copied there
from another cache or another name, is as good as a damaged one.

What is in them is their users' affair. They share the blobs' budget: kinds that can be had again
are evicted like blobs, those that take a client's help (`layout` names them) by later ones alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import Final

from cachetools import LRUCache

from proxy.cache.disk import to_the_end
from proxy.cache.errors import CacheError, NoSpace
from proxy.cache.files import disk_bytes, read_all, read_whole, replace, sync_directory
from proxy.cache.layout import is_kept, key_at, record_key
from proxy.cache.policy import Entry
from proxy.cache.room import Room
from proxy.cache.secret import load_secret
from proxy.cache.space import Space
from proxy.cache.store import BlobStore
from proxy.cache.values import Pin

_MEMORY_BYTES: Final = 16 * 1024 * 1024


class RecordStore:
    """Finds, keeps and removes records by (kind, registry, repository, key).

    The four may be any strings, save that a kind is made of lower-case letters. Invariant: what is
    in `_memory` was read from, or written to, the disk under that key last.
    """

    def __init__(self, space: Space, secret: bytes) -> None:
        self._space = space
        self._secret = secret
        self._memory: LRUCache[bytes, bytes] = LRUCache(_MEMORY_BYTES, getsizeof=len)
        self._changes = 0

    @classmethod
    async def open(cls, store: BlobStore) -> RecordStore:
        """The records in the store's directory, within its budget; done with when it is closed.

        Raises `CacheError` when the directory's secret cannot be had.
        """
        return await cls.within(store.space)

    @classmethod
    async def within(cls, space: Space) -> RecordStore:
        """The same before there is a store."""
        return cls(space, await load_secret(space.layout))

    async def find(self, kind: str, registry: str, repository: str, key: str) -> bytes | None:
        """The content last put there. None when there is none, or when it is damaged.

        What takes a client's help to bring back is not taken for absent when the disk refuses to
        read it: `CacheError` then.
        """
        identity = _identity(kind, registry, repository, key)
        name = _name(kind, identity)
        content = self._memory.get(name)
        if content is None:
            changes = self._changes
            content = await self._read(name, identity)
            # What another caller wrote meanwhile is newer than what was read.
            if content is not None and changes == self._changes:
                self._remember(name, content)
        if content is not None and self._space.find(name) is not None:
            self._space.use(name)
        return content

    async def put(
        self, kind: str, registry: str, repository: str, key: str, content: bytes
    ) -> None:
        """Keep content in place of what was there. What only later ones evict is durable on return.

        Raises `CacheError` when that cannot be: `NoSpace`, or the disk refuses. A kind that can be
        had again is left unkept then, and nothing is raised.
        """
        identity = _identity(kind, registry, repository, key)
        name = _name(kind, identity)
        data = _seal(self._secret, identity, content)
        kept = is_kept(name)
        try:
            # Before the turn: making room may evict the very record that is to be replaced.
            room = await self._space.reserve(len(data), urgent=kept)
            with room:
                async with self._space.turn(name):
                    await to_the_end(self._write(name, data, content, room))
        except NoSpace:
            if kept:
                raise
        except OSError as error:
            self._space.trouble(f"cannot keep a {kind} of {repository}: {error}", key, cause=error)
            if kept:
                raise CacheError(
                    f"the {kind} {key} of {repository} cannot be kept: the disk refused it: {error}"
                ) from error

    async def remove(self, kind: str, registry: str, repository: str, key: str) -> bool:
        """Forget what was put there; False when there was nothing. Raises `CacheError`."""
        name = _name(kind, _identity(kind, registry, repository, key))
        try:
            async with self._space.turn(name):
                return await to_the_end(self._unlink(name))
        except OSError as error:
            raise CacheError(
                f"the {kind} {key} of {repository} cannot be removed: {error}"
            ) from error

    def keep(self, kind: str, registry: str, repository: str, key: str) -> Pin:
        """Keep a record, once it is put, from eviction by later ones."""
        return Pin(self._space, _name(kind, _identity(kind, registry, repository, key)))

    async def all(self, kind: str, *, drop: bool = False) -> list[tuple[str, str, str, bytes]]:
        """Registry, repository, key and content of all records of a kind, read from disk.

        Damaged ones are left out, told of, and removed with `drop`. Raises `CacheError` when the
        disk refuses to list them.
        """
        space = self._space
        folder = space.layout.folder_of_records(kind)
        try:
            files = await space.disk.run(read_all, folder)
        except OSError as error:
            raise CacheError(f"{folder} cannot be read: {error}") from error
        records, damaged = [], []
        for path, data in files:
            name = key_at(space.layout.name_of(path))
            if (found := _open(self._secret, data)) is not None:
                records.append(found)
            elif name is not None:
                damaged.append((name, data))
        if damaged:
            space.trouble(
                f"{len(damaged)} notes in {folder} are not believed, and count as not there: they "
                f"are damaged, or were written with another key than the one in "
                f"{space.layout.secret} now"
            )
        for name, data in damaged if drop else ():
            await self._drop_damaged(name, data)
        return records

    def _remember(self, name: bytes, content: bytes) -> None:
        self._changes += 1
        self._memory.pop(name, None)
        if len(content) <= _MEMORY_BYTES // 4:
            self._memory[name] = content

    async def _read(self, name: bytes, identity: bytes) -> bytes | None:
        space = self._space
        try:
            data = await space.disk.run(read_whole, space.layout.path_of(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            space.trouble(f"cannot read a record: {error}")
            if is_kept(name):
                raise CacheError(
                    f"a record cannot be read: the disk refused it: {error}"
                ) from error
            return None
        content = _unseal(self._secret, identity, data)
        if content is None:
            space.trouble(f"a damaged record is dropped: {space.layout.path_of(name)}")
            await self._drop_damaged(name, data)
        return content

    async def _drop_damaged(self, name: bytes, data: bytes) -> None:
        space = self._space
        try:
            async with space.turn(name):
                # Unless somebody has put it anew in the meantime.
                if await space.disk.run(read_whole, space.layout.path_of(name)) == data:
                    await to_the_end(self._unlink(name))
        except FileNotFoundError:
            return
        except OSError as error:
            space.trouble(f"cannot remove a record: {error}")

    async def _write(self, name: bytes, data: bytes, content: bytes, room: Room) -> None:
        space = self._space
        target = space.layout.path_of(name)
        try:
            status = await space.disk.run(replace, space.layout.incoming_of(name), target, data)
        finally:
            await space.overhead.measure(target)
        room.release()
        self._forget(name)
        space.add(name, Entry(status.st_size, disk_bytes(status)))
        space.health.took()
        self._remember(name, content)

    async def _unlink(self, name: bytes) -> bool:
        try:
            removed = await self._space.disk.run(_remove, self._space.layout.path_of(name))
        finally:
            # Afterwards: who read it until then does not remember it any more.
            self._changes += 1
            self._memory.pop(name, None)
        self._forget(name)
        return removed

    def _forget(self, name: bytes) -> None:
        """The file that was there under the name is there no more."""
        entry = self._space.withdraw(name)
        if entry is not None:
            self._space.budget.gone(entry)


# The form of a file: the keyed hash of all that follows, who it is, what was put


def _identity(kind: str, registry: str, repository: str, key: str) -> bytes:
    return json.dumps([kind, registry, repository, key]).encode()


def _name(kind: str, identity: bytes) -> bytes:
    return record_key(kind, hashlib.sha256(identity).digest())


def _seal(secret: bytes, identity: bytes, content: bytes) -> bytes:
    body = identity + b"\n" + content
    return _mark(secret, body) + b"\n" + body


def _unseal(secret: bytes, identity: bytes, data: bytes) -> bytes | None:
    mark, _, body = data.partition(b"\n")
    if not hmac.compare_digest(_mark(secret, body), mark):
        return None
    found, _, content = body.partition(b"\n")
    return content if found == identity else None


def _mark(secret: bytes, body: bytes) -> bytes:
    # The person keeps it from being taken for anything else that is made with the secret.
    keyed = hashlib.blake2b(body, key=secret, person=b"ecr-cache-record", digest_size=32)
    return keyed.hexdigest().encode()


def _open(secret: bytes, data: bytes) -> tuple[str, str, str, bytes] | None:
    """Registry, repository, key and content of a file of any record; None if it is damaged."""
    identity = data.partition(b"\n")[2].partition(b"\n")[0]
    content = _unseal(secret, identity, data)
    if content is None:
        return None
    _, registry, repository, key = json.loads(identity)
    return registry, repository, key, content


def _remove(path: str) -> bool:
    """Unlink a file; False when it is not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(os.path.dirname(path))
    return True
