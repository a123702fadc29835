"""Concurrent callers share one answer."""

from __future__ import annotations

import asyncio

import pytest

from proxy.singleflight import SingleFlight


class _Gate:
    """Work that runs until it is let go, and counts how often it began."""

    def __init__(self) -> None:
        self.begun = 0
        self.running = asyncio.Event()
        self.go = asyncio.Event()

    async def work(self) -> int:
        self.begun += 1
        self.running.set()
        await self.go.wait()
        return self.begun


async def test_callers_with_the_same_key_share_one_run() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = _Gate()
    callers = [asyncio.create_task(flights.do("k", gate.work)) for _ in range(10)]
    await gate.running.wait()
    gate.go.set()
    assert await asyncio.gather(*callers) == [1] * 10


async def test_a_cancelled_caller_leaves_the_others_undisturbed() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = _Gate()
    first = asyncio.create_task(flights.do("k", gate.work))
    await gate.running.wait()
    second = asyncio.create_task(flights.do("k", gate.work))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.go.set()
    assert await second == 1


async def test_a_failure_reaches_every_caller_and_is_not_kept() -> None:
    flights: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        raise OSError("no")

    async def succeed() -> int:
        return 7

    outcomes = await asyncio.gather(
        flights.do("k", fail), flights.do("k", fail), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    assert await flights.do("k", succeed) == 7


async def test_closing_ends_what_runs() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = _Gate()
    caller = asyncio.create_task(flights.do("k", gate.work))
    await gate.running.wait()
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await caller
