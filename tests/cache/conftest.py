"""A store in an empty directory, with what it told."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.cache import BlobStore
from proxy.cache.disk import _THREADS, Disk
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.sizes import Share
from tests.cache.sources import ByteSource

MIB = 1024 * 1024


@dataclass(slots=True)
class Cache:
    """A directory, the store that is open on it, and the events it told."""

    directory: Path
    budget: int
    told: list[Event] = field(default_factory=list)
    _store: BlobStore | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self._news.set()

    async def heard(self, kind: Kind, reference: str = "") -> None:
        """Wait until something was told, of that blob if one is named."""
        while not any(e.kind is kind and reference in ("", e.reference) for e in self.told):
            self._news.clear()
            await self._news.wait()

    async def stored(self, digest: Digest) -> None:
        await self.heard(Kind.STORED, digest)

    @property
    def store(self) -> BlobStore:
        assert self._store is not None
        return self._store

    async def open(
        self,
        *,
        floor: Share | None = None,
        abandon_below: int = 0,
        pause: float = 0.0,
        settle: bool = True,
    ) -> BlobStore:
        events = Events()
        events.subscribe(self._hear)
        self._store = await BlobStore.open(
            self.directory,
            budget=self.budget,
            events=events,
            floor=floor,
            abandon_below=abandon_below,
            pause=pause,
        )
        if settle:
            await self._store.settled()
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()

    async def reopen(self, *, budget: int | None = None) -> BlobStore:
        await self.close()
        self.budget = self.budget if budget is None else budget
        return await self.open()

    async def put(self, blob: bytes) -> Digest:
        """Have a blob fetched and stored."""
        digest = Digest.of(blob)
        await collect(self.store.fill(digest, ByteSource(blob)).reader())
        await self.stored(digest)
        return digest

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.told]

    def files(self) -> list[str]:
        """Every file but the process's own, by its path in the directory."""
        found = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(
            str(path.relative_to(self.directory))
            for path in found
            if path.name not in ("lock", "secret", "checkpoint")
        )

    async def crash(self) -> None:
        """Leave the directory as a process that is killed does, and let go of it."""
        left = self.directory.with_name("left")
        shutil.copytree(self.directory, left)  # before the end writes anything down
        await self.close()
        shutil.rmtree(self.directory)
        left.rename(self.directory)

    def disk_bytes(self) -> int:
        """What the file system counts for all of it, as `du` does."""
        blocks = 0
        for path in (self.directory, *self.directory.rglob("*")):
            with suppress(FileNotFoundError):  # moved or evicted since it was listed
                blocks += path.lstat().st_blocks
        return blocks * 512


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[Cache]:
    cache = Cache(tmp_path / "cache", budget=64 * MIB)
    await cache.open()
    yield cache
    await cache.close()


@pytest.fixture(autouse=True)
def no_file_stays_open() -> Iterator[None]:
    """Descriptors are not Python objects here: nothing but this would notice that one is lost."""
    before = _open_files()
    yield
    assert _open_files() - before == set()


def _open_files() -> set[str]:
    names = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if "/cache/" in target:
            names.add(f"{number} {target}")
    return names


async def collect(pieces: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def collect_into(got: bytearray, pieces: AsyncGenerator[bytes, None]) -> None:
    """Collect what comes before an error, too."""
    async for piece in pieces:
        got += piece


@contextmanager
def held(disk: Disk) -> Iterator[None]:
    """Keep the threads busy: what is asked of the disk meanwhile is done afterwards."""
    go = threading.Event()
    for _ in range(_THREADS):
        disk._submit(disk._threads, go.wait)
    try:
        yield
    finally:
        go.set()
