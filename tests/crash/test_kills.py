"""The proxy is killed at random moments, over and over, under a mixed load that evicts.

Whatever it was at: no client ever gets a wrong byte, what a client was told stays true, the budget
holds in every sample of a watcher, and in the end nothing lies about that does not belong there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from proxy.cache import BlobStore
from proxy.cache.layout import key_at
from proxy.events import Events, Kind
from proxy.oci import Digest
from tests.crash.load import Blob, Load, Promises, Seen, make_blobs
from tests.crash.processes import Proxies, proxies, registry_at, upstream, watching
from tests.crash.server import Order
from tests.crash.watcher import disk_usage
from tests.running import Client

# To look into a failure, put its seed here. The moments and what each client asks for follow from
# it; how far each has got by then is the machine's.
SEED = 20_261_125
ROUNDS = 200
ROUNDS_ON_A_DISK = 20
BUDGET = 12 * 1024 * 1024
BLOBS, NEVER_SEEDED = 60, 8
LARGEST = 3_000_000
CLIENTS = 6
MEMORY = 200_000_000  # bytes; the interpreter and what is imported take a third of it

# Of a cache directory that is not in use, besides blobs, records and open uploads.
OWN_FILES = {"lock", "secret", "checkpoint"}


@dataclass(slots=True)
class Rounds:
    """What goes from one round to the next."""

    proxies: Proxies
    blobs: list[Blob]
    promises: Promises
    seen: Seen = field(default_factory=Seen)

    async def run(self, number: int) -> None:
        rng = random.Random(f"{SEED} {number}")
        if rng.random() < 0.1:
            await self._kill_in_the_start(rng)
        await self.proxies.start()
        load = self.load(killed=rng.random() < 0.8)
        clients = [
            asyncio.create_task(load.client(random.Random(f"{SEED} {number} {client}")))
            for client in range(CLIENTS)
        ]
        # The moment is what is drawn: it comes after no event, and is early only for a failure.
        await _wait(load.failed, rng.uniform(0.02, 0.4))
        load.ending = True
        await (self.proxies.kill() if load.killed else self.proxies.stop())
        await asyncio.gather(*clients)

    async def _kill_in_the_start(self, rng: random.Random) -> None:
        await self.proxies.fork()
        # Nothing is told before it listens; a start takes about 0.1 s.
        await _wait(asyncio.Event(), rng.uniform(0.0, 0.15))
        await self.proxies.kill()

    async def finish(self) -> None:
        """A start after which all is pulled, and a clean stop."""
        await self.proxies.start()
        load = self.load()
        for blob in self.blobs:
            if blob.digest not in load.promises.upstream:
                await load.push(blob, random.Random(SEED))
        for blob in self.blobs:
            await load.pull(blob)
        for path in self.promises.caches:
            await load.read_back(path)
        await self.proxies.stop()

    def load(self, *, killed: bool = False) -> Load:
        return Load(self.proxies.port, self.blobs, self.promises, self.seen, killed=killed)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@asynccontextmanager
async def rounds_over(cache: Path, folder: Path) -> AsyncIterator[Rounds]:
    """A proxy to be killed, with its cache in one directory and all else in another."""
    blobs = make_blobs(random.Random(SEED), BLOBS, LARGEST)
    async with upstream(folder / "upstream") as told:
        login = aiohttp.encode_basic_auth(told["username"], told["password"])
        straight = Client(told["url"], headers={"Authorization": login})
        for blob in blobs[NEVER_SEEDED:]:
            await straight.push_blob(blob.repository, blob.content)
        await straight.close()
        order = Order(registry_at(told), str(cache), BUDGET, str(folder / "events"))
        async with proxies(order, folder / "log") as started:
            seeded = {blob.digest for blob in blobs[NEVER_SEEDED:]}
            yield Rounds(started, blobs, Promises(seeded))


async def test_kills_cost_no_byte_no_room_and_leave_nothing_behind(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rounds_over(cache, tmp_path) as rounds, watching(cache, BUDGET) as watched:
        for number in range(ROUNDS):
            await rounds.run(number)
        await rounds.finish()
    told, seen = rounds.proxies.told(), rounds.seen
    with capsys.disabled():
        print(
            f"\nkills: max={watched.maximum} budget={BUDGET} samples={watched.samples} "
            f"evictions={told[Kind.EVICTED]} seed={SEED} rounds={ROUNDS} "
            f"checked={seen.checked} read-back={seen.read_back} pushes-resumed={seen.resumed} "
            f"peak-memory={rounds.proxies.peak} walked-again={watched.walked_again} "
            f"widest={watched.widest} told={_words(told)}"
        )
    assert watched.maximum <= BUDGET
    assert told[Kind.EVICTED] > ROUNDS
    assert told[Kind.CORRUPT] == 0
    assert rounds.proxies.peak < MEMORY
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert _strays(cache) == []
    assert _damaged(cache) == []
    store = await BlobStore.open(cache, budget=BUDGET, events=Events())
    try:
        assert store.unknown_files == 0
        assert store.used_bytes == disk_usage(str(cache))
    finally:
        await store.close()


async def test_the_file_system_itself_never_has_more_in_use_than_the_budget(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has nothing but the cache, and counts what no walk sees: what is unlinked and read on."""
    async with rounds_over(disk, tmp_path) as rounds, watching(disk, BUDGET) as watched:
        for number in range(ROUNDS_ON_A_DISK):
            await rounds.run(number)
    told = rounds.proxies.told()
    with capsys.disabled():
        print(
            f"\nkills on a disk of their own: max-in-use={watched.in_use} max={watched.maximum} "
            f"budget={BUDGET} samples={watched.samples} evictions={told[Kind.EVICTED]} "
            f"seed={SEED} rounds={ROUNDS_ON_A_DISK}"
        )
    assert watched.in_use <= BUDGET
    assert told[Kind.EVICTED] > ROUNDS_ON_A_DISK


def _words(told: Mapping[Kind, int]) -> str:
    return ",".join(f"{kind}:{count}" for kind, count in told.items() if count)


def _strays(cache: Path) -> list[str]:
    """Files that have no place in a directory that was left whole.

    Nor is there a part of a blob: each has been pulled to its end since the last kill.
    """
    names = (str(path.relative_to(cache)) for path in cache.rglob("*") if not path.is_dir())
    return [name for name in names if name not in OWN_FILES and key_at(name) is None]


def _damaged(cache: Path) -> list[str]:
    """Blobs that are not what their names say."""
    return [
        path.name
        for path in (cache / "blobs").rglob("*")
        if path.is_file() and Digest.of(path.read_bytes()).hex != path.name
    ]
