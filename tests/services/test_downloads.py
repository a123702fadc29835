"""Whose download begins next, and what is left of those that wait no more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from proxy.errors import Unavailable
from proxy.refusals import Reason, Refusals
from proxy.services.downloads import Downloads, ReaderLeft


class Job:
    """Something that runs until it is told to end."""

    def __init__(self, client: str, key: object) -> None:
        self.client = client
        self.key = key
        self._over: Callable[[], None] | None = None

    def when_over(self, call: Callable[[], None]) -> None:
        self._over = call

    def end(self) -> None:
        assert self._over is not None
        self._over()


class Desk:
    """Downloads, and what they have let begin, in that order."""

    def __init__(self, limit: int, *, wait: float = 3600.0) -> None:
        self.refusals = Refusals()
        self.downloads: Downloads[Job] = Downloads(limit, self.refusals, wait=wait)
        self.begun: list[Job] = []
        self._count = 0

    def ask(
        self, client: str, key: object = None, *, left: asyncio.Event | None = None
    ) -> asyncio.Task[Job | None]:
        self._count += 1
        name = self._count if key is None else key

        def begin() -> Job | None:
            self.begun.append(Job(client, name))
            return self.begun[-1]

        async def leave() -> None:
            await (left or asyncio.Event()).wait()

        return asyncio.create_task(self.downloads.begin(client, name, begin, left=leave))

    async def fill(self, client: str, times: int) -> list[asyncio.Task[Job | None]]:
        """Ask so many times, and let all of them come to where they wait."""
        tasks = [self.ask(client) for _ in range(times)]
        await turn()
        return tasks

    def clients(self) -> str:
        return "".join(job.client for job in self.begun)

    def assert_idle(self) -> None:
        assert (self.downloads.running, self.downloads.waiting) == (0, 0)
        assert not self.downloads._held
        assert not self.downloads._queues
        assert not self.downloads._by_key


async def turn() -> None:
    """Let every task take the steps that it can take."""
    for _ in range(5):
        await asyncio.sleep(0)


async def stop(*tasks: asyncio.Task[Job | None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_while_there_are_places_nobody_waits() -> None:
    desk = Desk(8)

    async def never() -> None:
        raise AssertionError("nobody waits")

    for number in range(3):
        job = Job("a", number)
        begun = desk.downloads.begin("a", number, lambda job=job: job, left=never)  # type: ignore[misc]
        with pytest.raises(StopIteration) as given:
            begun.send(None)  # in one step
        assert given.value.value is job
    assert desk.downloads.running == 3


async def test_the_next_one_begins_in_the_step_in_which_a_place_becomes_free() -> None:
    desk = Desk(1)
    first, second = [*await desk.fill("a", 1), *await desk.fill("b", 1)]
    assert (first.done(), second.done(), desk.downloads.waiting) == (True, False, 1)
    desk.begun[0].end()
    assert desk.clients() == "ab"
    assert await second is desk.begun[1]
    desk.begun[1].end()
    desk.assert_idle()


async def test_a_client_with_a_thousand_waiting_delays_one_with_one_by_one_at_most() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)
    greedy, modest = await desk.fill("g", 1000), await desk.fill("m", 1)
    desk.begun[0].end()
    desk.begun[1].end()
    assert desk.clients() == "xgm"
    await stop(*greedy, *modest)


async def test_clients_take_turns() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)
    tasks = [task for client in "abc" for task in await desk.fill(client, 3)]
    for number in range(9):
        desk.begun[number].end()
    assert desk.clients() == "x" + "abc" * 3
    await asyncio.gather(*tasks)


async def test_those_of_one_client_begin_in_their_order() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)
    await desk.fill("a", 5)
    for number in range(5):
        desk.begun[number].end()
    keys = [job.key for job in desk.begun]
    assert keys == sorted(keys, key=str)


@pytest.mark.parametrize(
    ("limit", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (100, 75), (256, 192)]
)
async def test_one_client_alone_leaves_a_quarter_free(limit: int, most: int) -> None:
    desk = Desk(limit)
    tasks = await desk.fill("g", limit + 1)
    assert desk.downloads.running == most
    if limit > 1:
        [modest] = await desk.fill("m", 1)
        assert modest.done()
    await stop(*tasks)


async def test_however_many_are_greedy_the_next_one_begins_at_once() -> None:
    desk = Desk(256)
    tasks = [task for client in "abcd" for task in await desk.fill(client, 300)]
    [modest] = await desk.fill("m", 1)
    assert modest.done()
    await stop(*tasks)


async def test_places_that_others_gave_back_are_shared_anew() -> None:
    """Who came first does not keep its lead over another who is as greedy."""
    desk = Desk(64)
    tasks = [*await desk.fill("a", 1000), *await desk.fill("b", 1000)]
    for job in desk.begun[:48]:
        assert job.client == "a"
        job.end()
    held = desk.downloads._held
    assert abs(held["a"] - held["b"]) <= 1
    assert sum(held.values()) > 48
    await stop(*tasks)


async def test_who_has_waited_long_enough_is_told_to_come_again() -> None:
    desk = Desk(1, wait=0.01)
    await desk.fill("a", 1)
    with pytest.raises(Unavailable) as refused:
        await desk.ask("b")
    assert refused.value.headers["Retry-After"] == "10"
    assert "max-fills (1)" in refused.value.message
    assert desk.refusals.counts()[Reason.FILLS] == 1
    desk.begun[0].end()
    assert desk.clients() == "a"
    desk.assert_idle()


async def test_who_has_left_gives_its_place_in_the_queue_up() -> None:
    desk = Desk(1)
    await desk.fill("a", 1)
    left = asyncio.Event()
    leaver, stayer = desk.ask("b", left=left), desk.ask("b")
    await turn()
    left.set()
    with pytest.raises(ReaderLeft):
        await leaver
    assert desk.downloads.waiting == 1
    desk.begun[0].end()
    assert await stayer is desk.begun[1]
    desk.begun[1].end()
    desk.assert_idle()
    assert desk.refusals.counts()[Reason.FILLS] == 0


async def test_who_is_cancelled_while_waiting_leaves_nothing() -> None:
    desk = Desk(1)
    await desk.fill("a", 1)
    waiting = await desk.fill("b", 3)
    await stop(*waiting)
    assert desk.downloads.waiting == 0
    desk.begun[0].end()
    assert desk.clients() == "a"
    desk.assert_idle()


async def test_what_began_for_one_who_is_cancelled_in_that_step_goes_on_and_is_counted() -> None:
    """It belongs to nobody who waits for it."""
    desk = Desk(1)
    await desk.fill("a", 1)
    [waiting] = await desk.fill("b", 1)
    desk.begun[0].end()
    await stop(waiting)
    assert desk.downloads.running == 1
    desk.begun[1].end()
    desk.assert_idle()


async def test_twenty_who_wait_for_one_blob_begin_one_download() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)
    waiting = [desk.ask("abcd"[number % 4], key="blob") for number in range(20)]
    behind = await desk.fill("a", 1)
    desk.begun[0].end()
    assert desk.clients() == "xa"
    first, *others = await asyncio.gather(*waiting)
    assert first is desk.begun[1]
    assert others == [None] * 19
    assert not behind[0].done()
    desk.begun[1].end()
    assert await behind[0] is desk.begun[2]


async def test_what_need_not_begin_any_more_takes_no_place() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)

    async def never() -> None:
        await asyncio.Event().wait()

    needless = asyncio.create_task(desk.downloads.begin("a", "there", lambda: None, left=never))
    behind = await desk.fill("b", 1)
    desk.begun[0].end()
    assert await needless is None
    assert await behind[0] is desk.begun[1]
    desk.begun[1].end()
    assert await desk.downloads.begin("a", "there", lambda: None, left=never) is None
    desk.assert_idle()


async def test_what_cannot_begin_fails_for_whoever_asked_and_holds_nobody_up() -> None:
    desk = Desk(1)
    await desk.fill("x", 1)

    def broken() -> Job:
        raise OSError("broken")

    async def never() -> None:
        await asyncio.Event().wait()

    failing = asyncio.create_task(desk.downloads.begin("a", "key", broken, left=never))
    behind = await desk.fill("b", 1)
    desk.begun[0].end()
    with pytest.raises(OSError, match="broken"):
        await failing
    assert await behind[0] is desk.begun[1]
    desk.begun[1].end()
    with pytest.raises(OSError, match="broken"):
        await desk.downloads.begin("c", "key", broken, left=never)
    desk.assert_idle()


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_and_goes_nobody_waits_who_may_begin(seed: int) -> None:
    chance = random.Random(seed)
    desk = Desk(chance.choice((1, 2, 5, 16)))
    downloads = desk.downloads
    tasks: list[asyncio.Task[Job | None]] = []
    ended = 0
    for _ in range(300):
        match chance.randrange(4):
            case 0 | 1:
                key = chance.choice((None, None, f"shared {chance.randrange(5)}"))
                tasks.append(desk.ask(chance.choice("abc"), key))
            case 2 if ended < len(desk.begun):
                desk.begun[ended].end()
                ended += 1
            case _ if tasks:
                chance.choice(tasks).cancel()
        if chance.random() < 0.7:
            await turn()
            assert not any(map(downloads._may_begin, downloads._queues))
        assert downloads.running == len(desk.begun) - ended == sum(downloads._held.values())
        assert downloads.running <= downloads._limit
    await stop(*tasks)
    assert downloads.waiting == 0
    while ended < len(desk.begun):
        desk.begun[ended].end()
        ended += 1
    desk.assert_idle()
