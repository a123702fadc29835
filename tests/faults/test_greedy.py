"""A client that takes all that it can get, and others who are served all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import LimitSettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import Digest
from proxy.services import uplink
from proxy.standin import Fault, StandIn
from proxy.standin.faults import Armed
from tests.faults.conftest import QUICK
from tests.faults.content import KIB, MIB, Taken, downloads, noise, path_of, seed, take
from tests.running import Answer, Client, RunningProxy, running, settings_for
from tests.test_metrics import samples

GREEDY = [noise(256 * KIB, seed=number) for number in range(20)]
MODEST = noise(256 * KIB, seed=100)
UPLOADS = "/v2/app/blobs/uploads/"


@asynccontextmanager
async def limited(
    standin: StandIn, tmp_path: Path, *, max_fills: int, wait: float = 3600.0
) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    limits = LimitSettings(max_fills=max_fills)
    async with running(
        replace(settings, limits=limits), timing=replace(QUICK, fill_wait=wait)
    ) as proxy:
        yield proxy


@asynccontextmanager
async def neighbour(proxy: RunningProxy) -> AsyncIterator[Client]:
    """A client from another address."""
    client = Client(f"http://{proxy.address}", source="127.0.0.2")
    try:
        yield client
    finally:
        await client.close()


def hold(standin: StandIn, *digests: Digest) -> list[Armed]:
    """Have them stall in their middle, until each is released."""
    return [
        standin.faults.add(Fault(server="s3", path=digest.hex, hold_at=100 * KIB))
        for digest in digests
    ]


def ask(client: Client, *digests: Digest) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(client.ask("GET", path_of(digest))) for digest in digests]


async def hang_up(tasks: Sequence[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(proxy: RunningProxy, **wanted: int) -> None:
    """Wait until these gauges stand so."""
    while True:
        seen = samples((await proxy.client.ask("GET", "/metrics")).body)
        if all(seen[f"ecr_cache_proxy_{name}"] == value for name, value in wanted.items()):
            return


async def let_go(gates: Sequence[Armed]) -> None:
    """Release each as it is reached."""

    async def release(gate: Armed) -> None:
        await gate.reached.wait()
        gate.release()

    await asyncio.gather(*map(release, gates))


async def test_one_that_asks_for_many_blobs_and_hangs_up_has_few_of_them_fetched(
    standin: StandIn, tmp_path: Path
) -> None:
    many, [modest] = seed(standin, *GREEDY), seed(standin, MODEST)
    gates = hold(standin, *many)
    async with limited(standin, tmp_path, max_fills=4) as proxy, neighbour(proxy) as greedy:
        asked = ask(greedy, *many)
        await until(proxy, fills_running=3, fills_waiting=17)
        # Three quarters are the most that one gets.
        assert await take(proxy, modest) == Taken(200, MODEST, whole=True)
        await proxy.until(Kind.STORED)
        await hang_up(asked)
        await until(proxy, fills_running=3, fills_waiting=0)
        for gate in gates:
            gate.release()
        await proxy.until(Kind.STORED, 4)
        await until(proxy, fills_running=0, fills_waiting=0)
    assert len(downloads(standin)) == 4


async def test_one_that_has_many_waiting_delays_nobody_by_more_than_one_download(
    standin: StandIn, tmp_path: Path
) -> None:
    many, [modest] = seed(standin, *GREEDY), seed(standin, MODEST)
    gates = hold(standin, *many)
    async with limited(standin, tmp_path, max_fills=1) as proxy, neighbour(proxy) as greedy:
        asked = ask(greedy, *many)
        await until(proxy, fills_running=1, fills_waiting=19)
        taking = asyncio.create_task(take(proxy, modest))
        await until(proxy, fills_waiting=20)
        # Whenever one is under way it is ended, until the modest one has got its own.
        begun = asyncio.create_task(let_go(gates))
        assert (await taking).whole
        await hang_up(asked)
        begun.cancel()
        # Before it came the one that ran, and the greedy one's next.
        paths = [request.path for request in downloads(standin)]
        assert [modest.hex in path for path in paths].index(True) <= 2
        for gate in gates:
            gate.release()


async def test_twenty_readers_who_wait_for_one_blob_cause_one_download(
    standin: StandIn, tmp_path: Path
) -> None:
    [first, wanted] = seed(standin, GREEDY[0], MODEST)
    [gate] = hold(standin, first)
    async with limited(standin, tmp_path, max_fills=1) as proxy, neighbour(proxy) as other:
        asked = ask(proxy.client, first)
        await gate.reached.wait()
        readers = ask(proxy.client, *[wanted] * 10) + ask(other, *[wanted] * 10)
        await until(proxy, fills_running=1, fills_waiting=20)
        gate.release()
        for answer in await asyncio.gather(*asked, *readers):
            assert answer.status == 200
    assert len(downloads(standin, wanted)) == 1


async def test_who_joins_a_download_needs_no_place(standin: StandIn, tmp_path: Path) -> None:
    [wanted] = seed(standin, MODEST)
    [gate] = hold(standin, wanted)
    async with limited(standin, tmp_path, max_fills=1) as proxy, neighbour(proxy) as other:
        asked = ask(proxy.client, wanted)
        await gate.reached.wait()
        asked += ask(other, *[wanted] * 5)
        await proxy.until(Kind.JOIN, 5)
        gate.release()
        for answer in await asyncio.gather(*asked):
            assert answer.body == MODEST


async def test_who_waits_too_long_is_told_to_come_again(standin: StandIn, tmp_path: Path) -> None:
    [first, wanted] = seed(standin, GREEDY[0], MODEST)
    [gate] = hold(standin, first)
    async with limited(standin, tmp_path, max_fills=1, wait=0.05) as proxy:
        asked = ask(proxy.client, first)
        await gate.reached.wait()
        refused = await proxy.client.ask("GET", path_of(wanted))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        for words in (b"UNAVAILABLE", b"max-fills (1)", b"ask again later"):
            assert words in refused.body
        seen = samples((await proxy.client.ask("GET", "/metrics")).body)
        assert seen["ecr_cache_proxy_refusals_total reason=fills"] == 1
        gate.release()
        await asyncio.gather(*asked)
        await until(proxy, fills_running=0)
        assert (await take(proxy, wanted)).whole


async def test_a_download_without_readers_keeps_its_place_until_it_ends(
    standin: StandIn, tmp_path: Path
) -> None:
    [first, wanted] = seed(standin, GREEDY[0], MODEST)
    [gate] = hold(standin, first)
    async with limited(standin, tmp_path, max_fills=1) as proxy:
        asked = ask(proxy.client, first)
        await gate.reached.wait()
        await hang_up(asked)
        [waiting] = ask(proxy.client, wanted)
        await until(proxy, fills_running=1, fills_waiting=1)
        assert not downloads(standin, wanted)
        gate.release()
        assert (await waiting).body == MODEST


@pytest.mark.parametrize(
    "fault",
    [
        Fault(server="registry", method="GET", status=404),
        Fault(server="registry", method="GET", status=403),
        Fault(server="s3", method="GET", status=403),
        Fault(server="s3", method="GET", cut_after=1000, times=None),
        Fault(server="s3", method="GET", corrupt_at=1000),
    ],
)
async def test_a_download_that_fails_gives_its_place_back(
    standin: StandIn, tmp_path: Path, fault: Fault
) -> None:
    [failing, wanted] = seed(standin, GREEDY[0], MODEST)
    standin.faults.add(replace(fault, path=failing.hex))
    async with limited(standin, tmp_path, max_fills=1) as proxy:
        await take(proxy, failing)
        assert (await take(proxy, wanted)).whole
        await until(proxy, fills_running=0, fills_waiting=0)


async def test_what_came_to_another_repository_meanwhile_is_not_given_to_who_waited(
    standin: StandIn, tmp_path: Path
) -> None:
    """That there is nothing to fetch any more says nothing of who may read it."""
    [first] = seed(standin, GREEDY[0])
    standin.state.create_repository("other")
    [gate] = hold(standin, first)
    async with limited(standin, tmp_path, max_fills=1) as proxy:
        asked = ask(proxy.client, first)
        await gate.reached.wait()
        [waiting] = ask(proxy.client, Digest.of(MODEST))
        await until(proxy, fills_waiting=1)
        await proxy.client.push_blob("other", MODEST)
        gate.release()
        answer = await waiting
        assert answer.status == 404
        assert MODEST not in answer.body
        await asyncio.gather(*asked)


async def test_uploads_that_drip_keep_no_push_waiting(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are not full cannot be sent, and are three times what may run ahead of upstream.

    Nor does it matter how large what the others push is: less than a part, or several.
    """
    monkeypatch.setattr(uplink, "_MOST_AHEAD", 16 * MIB)
    end = asyncio.Event()
    size = 4 * MIB + 512 * KIB

    async def drip() -> AsyncIterator[bytes]:
        yield bytes(size)
        await end.wait()
        yield b"the end"

    async with limited(standin, tmp_path, max_fills=1) as proxy, neighbour(proxy) as greedy:
        dripping = []
        for _ in range(11):
            location = (await greedy.ask("POST", UPLOADS)).headers["Location"]
            dripping.append(asyncio.create_task(greedy.ask("PATCH", location, body=drip())))
            while (await greedy.ask("GET", location)).headers["Range"] != f"0-{size - 1}":
                pass
        modest = [noise(13 * MIB, seed=1), noise(13 * MIB, seed=2), MODEST]
        pushes = (proxy.client.push_blob("app", content) for content in modest)
        await proxy.until_upstream(*await asyncio.gather(*pushes))
        assert not any(task.done() for task in dripping)
        end.set()
        assert [answer.status for answer in await asyncio.gather(*dripping)] == [202] * 11


async def test_one_that_has_all_its_uploads_open_keeps_nobody_from_pushing(
    standin: StandIn, tmp_path: Path
) -> None:
    async with limited(standin, tmp_path, max_fills=1) as proxy, neighbour(proxy) as greedy:
        answers = await asyncio.gather(*(greedy.ask("POST", UPLOADS) for _ in range(300)))
        statuses = [answer.status for answer in answers]
        assert (statuses.count(202), statuses.count(429)) == (256, 44)
        await proxy.until_upstream(await proxy.client.push_blob("app", MODEST))
