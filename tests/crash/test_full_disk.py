"""A disk of 64 MiB that is full before the budget is spent: clients are served on, and it is used
again when it has room.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.standin import Fault, StandIn, StandInSettings
from tests.crash.conftest import DISK
from tests.crash.load import Blob, Load, Promises, Seen, make_blob
from tests.crash.processes import Proxies, proxies
from tests.crash.server import Order

MIB = 1024 * 1024
BUDGET = 1024 * MIB
SIZE = 6 * MIB + 17
MEMORY = 200_000_000  # bytes
# After the disk has refused a write the cache may leave it alone for some seconds: requests go on
# meanwhile, each of which takes a hundredth of a second or more.
TRIES = 2000


@dataclass(slots=True)
class Ballast:
    """Somebody else's file on the same disk."""

    path: Path

    def take(self, size: int) -> None:
        """So many bytes, or what is left."""
        with self.path.open("ab", buffering=0) as file, suppress(OSError):
            for _ in range(size // 4096):
                file.write(bytes(4096))

    def give_back(self) -> None:
        self.path.unlink()


@dataclass(slots=True)
class Served:
    """A proxy with its cache on a small disk, and what upstream has for it."""

    standin: StandIn
    proxies: Proxies
    ballast: Ballast
    log: Path
    _made: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def load(self) -> Load:
        return Load(self.proxies.port, [], Promises(), Seen())

    def seeded(self) -> Blob:
        """A blob that upstream has."""
        blob = self.unknown()
        self.standin.state.put_blob(blob.repository, blob.content)
        return blob

    def unknown(self) -> Blob:
        return make_blob(self._made, SIZE)

    def told(self, kind: Kind) -> int:
        return self.proxies.told()[kind]


@pytest.fixture
async def served(disk: Path, tmp_path: Path) -> AsyncIterator[Served]:
    settings = StandInSettings(
        create_on_push=("ROOT",), rate_limits=False, unreferenced_blob_status=200
    )
    async with StandIn(settings) as standin:
        order = Order(registry_of(standin), str(disk / "cache"), BUDGET, str(tmp_path / "events"))
        async with proxies(order, tmp_path / "log") as started:
            await started.start()
            yield Served(standin, started, Ballast(disk / "ballast"), tmp_path / "log")


async def test_a_disk_that_fills_up_under_a_fill_costs_its_readers_nothing(served: Served) -> None:
    blob = served.seeded()
    held = served.standin.faults.add(Fault(server="s3", method="GET", hold_at=2 * MIB))
    readers = [asyncio.create_task(served.load.pull(blob)) for _ in range(4)]
    await held.reached.wait()
    served.ballast.take(DISK)
    held.release()
    await asyncio.gather(*readers)
    await served.proxies.stop()
    assert served.told(Kind.TROUBLE) > 0
    assert served.told(Kind.STORED) == 0
    assert "No space left on device" in served.log.read_text()


async def test_a_full_disk_costs_no_client_a_byte_and_is_used_again_once_it_has_room(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = [served.seeded() for _ in range(2 * DISK // SIZE)]
    served.ballast.take(DISK // 2)
    for blob in blobs[:2]:
        await served.load.pull(blob)
    await asyncio.gather(*(served.load.pull(blob) for blob in blobs))
    served.ballast.take(DISK)
    await asyncio.gather(*(served.load.pull(blob) for blob in blobs))
    for number in range(4):
        load = served.load
        await load.push(served.unknown(), random.Random(number))
        assert load.promises.upstream, "a push on a full disk did not reach upstream"
    assert served.told(Kind.DEGRADED) > 0
    assert "nothing is stored" in served.log.read_text()

    served.ballast.give_back()
    fresh = served.seeded()
    stored, tries = served.told(Kind.STORED), 0
    while served.told(Kind.STORED) == stored:
        tries += 1
        assert tries < TRIES, "what the disk has room for again is not stored"
        await served.load.pull(fresh)
    hits = served.told(Kind.HIT)
    await served.load.pull(fresh)
    assert served.told(Kind.HIT) == hits + 1
    await served.proxies.stop()
    with capsys.disabled():
        print(
            f"\nfull disk: disk={DISK} pulled={2 * len(blobs) * SIZE} "
            f"degraded={served.told(Kind.DEGRADED)} stored={served.told(Kind.STORED)} "
            f"tries-to-recover={tries} peak-memory={served.proxies.peak}"
        )
    assert served.told(Kind.RECOVERED) == served.told(Kind.DEGRADED)
    assert served.proxies.peak < MEMORY
    assert "Traceback" not in served.log.read_text()
