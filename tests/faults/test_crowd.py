"""Many clients at once on what is not there yet: one download, and memory for none of it."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

from proxy.standin import Fault, StandIn
from tests.faults.content import MIB, downloads, seed
from tests.faults.served import served
from tests.faults.wire import Download

CLIENTS = 32
MEBIBYTES = 256
GROWTH = 48 * MIB


def write_blob(path: Path) -> None:
    piece = random.Random(7).randbytes(MIB)
    with path.open("wb") as file:
        for number in range(MEBIBYTES):
            file.write(number.to_bytes(8, "big") + piece[8:])


async def test_a_crowd_on_a_cold_blob_costs_one_download_and_little_memory(
    standin: StandIn, tmp_path: Path
) -> None:
    """32 clients and 256 MiB: 8 GiB go out for one request.

    What the process takes at its peak grows by less than 48 MiB, 1.5 MiB a client.
    """
    write_blob(tmp_path / "blob")
    [digest] = seed(standin, tmp_path / "blob")
    async with served(tmp_path / "proxy", standin) as proxy:
        before = proxy.peak_memory()
        gate = standin.faults.add(Fault(server="s3", hold_at=MIB))
        began = asyncio.Semaphore(0)

        async def take() -> tuple[int, str]:
            hasher = hashlib.sha256()
            async with Download(proxy.address, digest) as download:
                await download.read_head()
                left = download.length
                while left and (piece := await download.read()):
                    if left == download.length:
                        began.release()
                    left -= len(piece)
                    hasher.update(piece)
            return left, f"sha256:{hasher.hexdigest()}"

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(take()) for _ in range(CLIENTS)]
            for _ in range(CLIENTS):
                await began.acquire()
            gate.release()  # all of them are in the middle of it, and there is no more yet
        assert {task.result() for task in tasks} == {(0, digest)}
        growth = proxy.peak_memory() - before
    assert len(downloads(standin)) == 1
    assert growth < GROWTH, f"{growth / MIB:.1f} MiB"
