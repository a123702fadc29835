"""How far clients may run ahead of a registry, and whose turn it is to send."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from proxy.errors import BadGateway, GatewayTimeout, RegistryError, Unavailable
from proxy.services.pace import Pace
from proxy.services.uplink import MIB, Share, Uplink
from tests.clocks import Clock


async def admit(uplink: Uplink, share: Share, size: int) -> None:
    await uplink.admit(share, size, part=lambda: uplink.part_size(0))


async def waits(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Work that has been begun, and has not ended by itself."""
    task = asyncio.create_task(work)
    for _ in range(5):
        await asyncio.wait([task], timeout=0)
    assert not task.done()
    return task


def test_a_rate_is_what_was_confirmed_while_something_was_on_its_way() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(10 * MIB)
    clock.now += 2
    pace.end(10 * MIB, confirmed=True)
    assert pace.rate == 5 * MIB
    clock.now += 3600  # a client that has nothing to send says nothing of the line
    assert pace.rate == 5 * MIB
    pace.begin(10 * MIB)
    pace.begin(10 * MIB)
    clock.now += 4
    pace.end(10 * MIB, confirmed=True)
    pace.end(10 * MIB, confirmed=True)
    assert pace.rate == 5 * MIB


def test_a_rate_falls_while_nothing_is_confirmed() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(10 * MIB)
    clock.now += 1
    pace.end(10 * MIB, confirmed=True)
    pace.begin(10 * MIB)
    clock.now += 99
    assert pace.rate == pytest.approx(10 * MIB / 99, rel=0.02)
    pace.end(10 * MIB, confirmed=False)
    assert pace.rate == pytest.approx(10 * MIB / 99, rel=0.02)


def test_what_takes_longer_than_is_looked_back_makes_no_line_seem_fast() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(3):
        pace.begin(10 * MIB)
        clock.now += 40
        pace.end(10 * MIB, confirmed=True)
        assert pace.rate == pytest.approx(MIB / 4)


def test_small_blobs_say_nothing_of_a_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(1000)
    clock.now += 10
    pace.end(1000, confirmed=True)
    assert pace.rate is None


async def send(uplink: Uplink, clock: Clock, share: Share, size: int, *, seconds: float) -> None:
    async with uplink.turn(share, size):
        clock.now += seconds
    uplink.owe(share, -size)


async def test_the_limit_starts_small_and_is_what_the_line_carries_in_15_seconds() -> None:
    clock = Clock()
    uplink = Uplink(clock=clock)
    assert uplink.limit == 16 * MIB
    share = uplink.join()
    await admit(uplink, share, 10 * MIB)
    await send(uplink, clock, share, 10 * MIB, seconds=4)  # 20 Mbit/s
    assert uplink.limit == pytest.approx(37.5 * MIB)
    await admit(uplink, share, 30 * MIB)
    await send(uplink, clock, share, 30 * MIB, seconds=0.1)
    clock.now += 1
    await admit(uplink, share, 200 * MIB)
    for _ in range(20):
        await send(uplink, clock, share, 10 * MIB, seconds=0.01)
    assert uplink.limit == pytest.approx(256 * MIB, rel=0.5)
    assert uplink.limit <= 256 * MIB


async def test_who_would_run_too_far_ahead_waits_until_enough_is_confirmed() -> None:
    clock = Clock()
    uplink = Uplink(clock=clock)
    first, second = uplink.join(), uplink.join()
    await admit(uplink, first, 10 * MIB)
    await admit(uplink, second, 5 * MIB)
    task = await waits(admit(uplink, second, 3 * MIB))
    uplink.owe(first, -1 * MIB)
    await asyncio.wait([task], timeout=0)
    assert not task.done()
    uplink.owe(first, -1 * MIB)
    await task
    assert uplink.owed == 16 * MIB


async def test_the_first_who_waits_may_fill_its_part_whatever_is_owed() -> None:
    """A part that is not full is not sent: all could wait for one another for ever."""
    uplink = Uplink(clock=Clock())
    shares = [uplink.join() for _ in range(8)]
    for share in shares:
        await admit(uplink, share, 2 * MIB)
    for _ in range(3):
        await admit(uplink, shares[0], MIB)
    first = await waits(admit(uplink, shares[0], MIB))  # its part is full now
    second = await waits(admit(uplink, shares[1], MIB))
    assert uplink.owed == 19 * MIB
    first.cancel()
    await second  # it is the first one now
    await asyncio.gather(first, return_exceptions=True)
    assert uplink.owed == 20 * MIB


async def test_who_is_away_keeps_nobody_waiting() -> None:
    uplink = Uplink(clock=Clock())
    first, second = uplink.join(), uplink.join()
    await admit(uplink, first, 11 * MIB)
    await admit(uplink, second, 5 * MIB)
    task = await waits(admit(uplink, second, MIB))
    uplink.pause(first)
    await task
    assert uplink.owed == 6 * MIB
    uplink.resume(first)
    assert uplink.owed == 17 * MIB
    uplink.leave(first)
    assert (uplink.owed, first.owed) == (6 * MIB, 0)


async def test_no_more_than_so_many_blobs_are_owed() -> None:
    uplink = Uplink(clock=Clock())
    shares = [uplink.join() for _ in range(129)]
    for share in shares[:128]:
        await uplink.promise(share, unless=lambda: False)
    task = await waits(uplink.promise(shares[128], unless=lambda: False))
    uplink.leave(shares[0])
    await task
    assert uplink.blobs == 128


async def test_a_blob_is_promised_when_no_more_is_owed_than_may_be_or_it_is_upstream() -> None:
    uplink = Uplink(clock=Clock())
    share, other = uplink.join(), uplink.join()
    is_there = False
    uplink.owe(share, 12 * MIB)
    uplink.owe(other, 5 * MIB)
    first = await waits(uplink.promise(share, unless=lambda: False))
    second = await waits(uplink.promise(other, unless=lambda: is_there))
    uplink.changed()
    await asyncio.wait([first, second], timeout=0)
    assert not first.done()
    assert not second.done()
    is_there = True
    uplink.changed()
    await second
    assert not first.done()
    uplink.owe(share, -MIB)
    await first


async def test_trouble_that_does_not_pass_ends_the_wait() -> None:
    clock = Clock()
    uplink = Uplink(clock=clock, patience=20)
    share = uplink.join()
    await admit(uplink, share, 16 * MIB)
    task = await waits(admit(uplink, share, MIB))
    clock.now += 100  # a slow line is no trouble
    uplink.changed()
    await asyncio.wait([task], timeout=0)
    assert not task.done()
    uplink.failed(BadGateway("down"))
    clock.now += 19
    uplink.failed(Unavailable("down still"))
    await asyncio.wait([task], timeout=0)
    assert not task.done()
    clock.now += 2
    uplink.failed(Unavailable("down for good"))
    with pytest.raises(Unavailable, match="for good"):
        await task
    assert uplink.owed == 16 * MIB


async def test_trouble_that_passes_is_forgotten() -> None:
    clock = Clock()
    uplink = Uplink(clock=clock, patience=20)
    share = uplink.join()
    await admit(uplink, share, 16 * MIB)
    uplink.failed(BadGateway("down"))
    task = await waits(admit(uplink, share, MIB))
    clock.now += 19
    uplink.worked()
    clock.now += 19
    uplink.changed()
    await asyncio.wait([task], timeout=0)
    assert not task.done()
    uplink.owe(share, -MIB)
    await task


async def test_no_more_than_eight_send_at_once_and_who_is_waited_for_goes_first() -> None:
    uplink = Uplink(clock=Clock())
    order: list[int] = []
    gate = asyncio.Event()

    async def work(share: Share) -> None:
        async with uplink.turn(share, 1):
            order.append(share.number)
            await gate.wait()

    shares = [uplink.join() for _ in range(12)]
    tasks = [asyncio.ensure_future(work(share)) for share in shares]
    await asyncio.wait(tasks, timeout=0)
    await asyncio.wait(tasks, timeout=0)
    assert order == [1, 2, 3, 4, 5, 6, 7, 8]
    uplink.hurry(shares[11])
    tasks[9].cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order[8:] == [12, 9, 11]


@pytest.mark.parametrize(
    ("rate", "at_once"), [(None, 2), (MIB // 4, 1), (MIB, 4), (10 * MIB, 8)], ids=str
)
async def test_no_more_is_on_its_way_than_the_line_carries_in_time(
    rate: int | None, at_once: int
) -> None:
    """Parts that share a slow line all end late, and too late they count as lost."""
    clock = Clock()
    uplink = Uplink(clock=clock)
    if rate is not None:
        await send(uplink, clock, uplink.join(), 10 * MIB, seconds=10 * MIB / rate)
    gate = asyncio.Event()
    begun: list[int] = []

    async def work(share: Share) -> None:
        async with uplink.turn(share, 5 * MIB):
            begun.append(share.number)
            await gate.wait()

    shares = [uplink.join() for _ in range(10)]
    tasks = [asyncio.ensure_future(work(share)) for share in shares]
    for _ in range(5):
        await asyncio.wait(tasks, timeout=0)
    assert begun == [share.number for share in shares[:at_once]]
    gate.set()
    await asyncio.gather(*tasks)
    assert begun == [share.number for share in shares]


async def test_a_part_that_needs_the_line_for_itself_is_not_passed_over() -> None:
    uplink = Uplink(clock=Clock())
    order: list[str] = []

    async def work(name: str, share: Share, size: int, gate: asyncio.Event | None) -> None:
        async with uplink.turn(share, size):
            order.append(name)
            if gate is not None:
                await gate.wait()

    gate = asyncio.Event()
    names = {"running": 5 * MIB, "large": 50 * MIB, "small": 1}
    tasks = []
    for name, size in names.items():
        held = gate if name == "running" else None
        tasks.append(asyncio.ensure_future(work(name, uplink.join(), size, held)))
        await asyncio.wait(tasks, timeout=0)
    await asyncio.wait(tasks, timeout=0)
    assert order == ["running"]
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["running", "large", "small"]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 2, 3, 5, 10, 40])
async def test_a_part_of_any_line_is_taken_by_ecr(seconds: float) -> None:
    clock = Clock()
    uplink = Uplink(clock=clock)
    share = uplink.join()
    uplink.owe(share, 10 * MIB)
    await send(uplink, clock, share, 10 * MIB, seconds=seconds)
    part = uplink.part_size(0)
    assert 5 * MIB <= part < 10 * MIB or part % (10 * MIB) == 0
    assert part <= max(uplink.limit, 5 * MIB)


async def test_the_largest_blob_of_ecr_goes_in_parts_that_it_takes() -> None:
    """Over the slowest line: 52,000 MiB in 4,200 parts at most, none under 5 MiB (ECR.md §4)."""
    uplink = Uplink(clock=Clock())
    sent = parts = 0
    while sent < 52_000 * MIB:
        part = uplink.part_size(sent)
        assert 5 * MIB <= part < 10 * MIB or part % (10 * MIB) == 0  # as ECR cuts it
        sent, parts = sent + part, parts + 1
    assert parts <= 4200


async def test_over_a_line_that_moves_bytes_silence_is_borne_for_longer_and_not_for_ever() -> None:
    """What timed out was sent too much of at once, where the line has just become slower."""
    clock = Clock()
    uplink = Uplink(clock=clock, patience=20)
    share = uplink.join()
    await admit(uplink, share, 16 * MIB)
    uplink.failed(GatewayTimeout("fell silent"))
    task = await waits(admit(uplink, share, MIB))
    for seconds in (19, 55, 55, 45):
        clock.now += seconds
        uplink.moved()
        uplink.changed()
        await asyncio.wait([task], timeout=0)
        assert not task.done()
    clock.now += 7  # 181 s in all
    uplink.moved()
    uplink.changed()
    with pytest.raises(GatewayTimeout):
        await task


@pytest.mark.parametrize("error", [BadGateway("answered 500"), GatewayTimeout("fell silent")])
async def test_what_was_answered_or_does_not_move_is_borne_no_longer(error: RegistryError) -> None:
    clock = Clock()
    uplink = Uplink(clock=clock, patience=20)
    share = uplink.join()
    await admit(uplink, share, 16 * MIB)
    uplink.failed(error)
    task = await waits(admit(uplink, share, MIB))
    clock.now += 21
    if not isinstance(error, GatewayTimeout):
        uplink.moved()
    uplink.changed()
    with pytest.raises(type(error)):
        await task


async def test_who_waits_for_room_wakes_those_who_hold_it_asleep() -> None:
    uplink = Uplink(clock=Clock())
    first, second = uplink.join(), uplink.join()
    await admit(uplink, first, 16 * MIB)
    alarm = asyncio.Event()
    with uplink.sleeping(alarm):
        await uplink.promise(second, unless=lambda: False)
        assert not alarm.is_set()  # there is room
        task = await waits(admit(uplink, first, MIB))
        assert alarm.is_set()
        alarm.clear()
        uplink.owe(second, 1)  # more than may be
        waiting = await waits(uplink.promise(uplink.join(), unless=lambda: False))
        assert alarm.is_set()
    for each in (task, waiting):
        each.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)


async def test_silence_is_borne_while_other_parts_are_on_their_way() -> None:
    clock = Clock()
    uplink = Uplink(clock=clock, patience=20)
    first, second = uplink.join(), uplink.join()
    await admit(uplink, first, 16 * MIB)
    async with uplink.turn(second, MIB):
        uplink.failed(GatewayTimeout("fell silent"))
        task = await waits(admit(uplink, first, MIB))
        clock.now += 100
        uplink.changed()
        await asyncio.wait([task], timeout=0)
        assert not task.done()
    uplink.changed()
    with pytest.raises(GatewayTimeout):
        await task
