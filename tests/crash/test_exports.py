"""The proxy is killed or stopped at random moments during exports: clients try again.

What was promised is kept: a blob that was taken with a 201 is not asked for again, and a manifest
that was is upstream at that moment. A proxy that was stopped has brought upstream what it took.
The stand-in checks no layers: that what it stores is complete is the proxy's own doing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.oci import OCI_INDEX, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from tests.caches import OLD, Cache, only
from tests.commits import assert_all_is_committed
from tests.crash.processes import Proxies, proxies
from tests.crash.server import Order
from tests.crash.wire import ask
from tests.exporter import Export, Exporter

# As in test_kills: the moments follow from the seed, how far each has got by then does not.
SEED = 20_261_125
ROUNDS = 40
PUSHERS = 3
LAYERS = 5
LARGEST = 300_000
BUDGET = 64 * 1024 * 1024
LATENCY = 0.01


@dataclass(slots=True)
class Push:
    """A cache on its way into a repository, and what its client was promised so far."""

    repository: str
    tag: str
    cache: Cache
    promised: set[Digest] = field(default_factory=set)

    async def go(self, port: int) -> Export:
        async with Exporter(f"http://127.0.0.1:{port}", pauses=(0.01, 0.02, 0.04)) as exporter:
            done = await exporter.export(self.repository, self.tag, self.cache)
        assert not done.uploaded & self.promised, "a blob that had been taken was asked for again"
        self.promised |= done.uploaded
        return done

    def assert_is_stored(self, standin: StandIn) -> None:
        tags = standin.state.repository(self.repository).tags
        assert tags[self.tag] == Digest.of(self.cache.image_manifest)

    def assert_blobs_are_stored(self, standin: StandIn) -> None:
        repository = standin.state.find_repository(self.repository)
        assert not self.promised - set(repository.blobs if repository else ())


@dataclass(slots=True)
class Seen:
    """How many exports an end of the proxy broke off, and how many blobs it had taken of those."""

    broken_off: int = 0
    promised: int = 0


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    settings = StandInSettings(create_on_push=("ROOT",), rate_limits=False, check_layers=False)
    async with StandIn(settings) as standin:
        standin.faults.add(Fault(times=None, latency=LATENCY))
        yield standin


async def test_exports_outlive_every_end_of_the_proxy(
    standin: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(registry_of(standin), str(tmp_path / "cache"), BUDGET, str(tmp_path / "events"))
    pushes: list[Push] = []
    seen = Seen()
    async with proxies(order, tmp_path / "log") as started:
        for number in range(ROUNDS):
            rng = random.Random(f"{SEED} {number}")
            begun = _pushes(rng, number)
            pushes += begun
            for _ in range(rng.choice((1, 1, 2))):
                await started.start()
                killed, after = rng.random() < 0.8, rng.uniform(0.01, 0.35)
                await _end_under(started, begun, standin, seen, after=after, killed=killed)
            await started.start()
            for push, done in zip(begun, await _all(started, begun), strict=True):
                assert done.failure is None, done.failure
                push.assert_is_stored(standin)
            await started.stop()
        await started.start()
        for push in pushes:
            await _assert_reads_back(started.port, push)
        await started.stop()
    with capsys.disabled():
        print(
            f"\nkills during exports: exports={len(pushes)} broken-off={seen.broken_off} "
            f"blobs-taken-of-those={seen.promised} seed={SEED} rounds={ROUNDS}"
        )
    assert seen.broken_off > ROUNDS // 2
    assert seen.promised > ROUNDS // 2
    assert assert_all_is_committed(standin) == len(pushes)
    assert "Traceback" not in (tmp_path / "log").read_text()


def _pushes(rng: random.Random, number: int) -> list[Push]:
    """Some layers are the same in each of them, as branches of one project have."""
    common = [rng.randbytes(rng.randrange(1, LARGEST)) for _ in range(2)]
    return [
        Push(
            f"exports/{pusher}",
            f"round-{number}",
            Cache.of(
                *common,
                *(rng.randbytes(rng.randrange(1, LARGEST)) for _ in range(LAYERS - len(common))),
            ),
        )
        for pusher in range(PUSHERS)
    ]


async def _all(started: Proxies, pushes: list[Push]) -> list[Export]:
    return await asyncio.gather(*(push.go(started.port) for push in pushes))


async def _end_under(
    started: Proxies,
    pushes: list[Push],
    standin: StandIn,
    seen: Seen,
    *,
    after: float,
    killed: bool,
) -> None:
    pushing = asyncio.create_task(_all(started, pushes))
    await asyncio.wait({pushing}, timeout=after)
    await (started.kill() if killed else started.stop())
    for push, done in zip(pushes, await pushing, strict=True):
        if done.failure is None:
            push.assert_is_stored(standin)
        else:
            status = done.failure.status
            assert status == 0 or (status >= 500 and not killed), done.failure
            seen.broken_off += 1
            seen.promised += len(done.uploaded)
        if not killed:
            push.assert_blobs_are_stored(standin)


async def _assert_reads_back(port: int, push: Push) -> None:
    path = f"/v2/{push.repository}/manifests/{Digest.of(push.cache.index)}"
    reply = await ask(port, "GET", path, headers={**only(OCI_INDEX), **OLD})
    assert (reply.status, reply.body) == (200, push.cache.index)
