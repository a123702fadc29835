"""The circuit breaker: what opens it, who waits, and what closes it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.errors import BadGateway, GatewayTimeout, RegistryError, Unavailable
from proxy.events import Events, Kind
from proxy.upstream import Tuning
from proxy.upstream.breaker import Breaker
from tests.upstream.fakes import QUICK, Told

OUTAGE = Unavailable("lan answered 503")
# No probe but the first one, unless a test says so: the second is far off.
ONCE = replace(QUICK, first_probe=3600.0, last_probe=3600.0)


class Probes:
    """Answers probes as it is told, and lets them wait at a gate."""

    def __init__(self) -> None:
        self.count = 0
        self.outcome: Exception | None = OUTAGE
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()

    async def __call__(self, limit: float) -> None:
        self.count += 1
        self.began.set()
        await self.gate.wait()
        if self.outcome is not None:
            raise self.outcome


@pytest.fixture
async def probes() -> Probes:
    return Probes()


def make(probes: Probes, events: Events, tuning: Tuning = ONCE) -> Breaker:
    return Breaker(probes, registry="lan", events=events, tuning=tuning)


def fail(breaker: Breaker, times: int = QUICK.failures) -> None:
    for _ in range(times):
        breaker.failed(OUTAGE, breaker.begin())


async def open_up(breaker: Breaker, told: Told) -> None:
    outages = len(told.of(Kind.TROUBLE))
    fail(breaker)
    await told.wait_for(Kind.TROUBLE, outages + 1)
    assert breaker.is_down


async def test_failures_in_a_row_that_a_probe_confirms_are_an_outage(
    probes: Probes, events: Events, told: Told
) -> None:
    breaker = make(probes, events)
    fail(breaker, QUICK.failures - 1)
    await breaker.admit()
    assert probes.count == 0
    fail(breaker, 1)
    await told.wait_for(Kind.TROUBLE)
    assert breaker.is_down
    fail(breaker)
    assert len(told.of(Kind.TROUBLE)) == probes.count == 1
    await breaker.close()


async def test_failures_between_answers_are_none(
    probes: Probes, events: Events, told: Told
) -> None:
    breaker = make(probes, events)
    for _ in range(20):
        fail(breaker, QUICK.failures - 1)
        await asyncio.sleep(0)  # a probe would begin here
        breaker.answered()
    await breaker.admit()
    assert probes.count == 0
    await breaker.close()


async def test_who_comes_under_suspicion_waits_for_its_verdict(
    probes: Probes, events: Events, told: Told
) -> None:
    probes.gate.clear()
    probes.outcome = None
    breaker = make(probes, events)
    fail(breaker)
    assert not breaker.is_down
    coming = asyncio.create_task(breaker.admit())
    await probes.began.wait()
    assert not coming.done()
    probes.gate.set()
    await coming
    assert not told.events  # one that always fails is no outage
    await breaker.close()


async def test_silence_alone_is_enough_for_a_suspicion(
    probes: Probes, events: Events, told: Told
) -> None:
    breaker = make(probes, events)
    breaker.failed(GatewayTimeout("silent"), breaker.begin(), silent=True)
    await told.wait_for(Kind.TROUBLE)
    assert breaker.is_down
    await breaker.close()


async def test_silence_while_others_are_answered_is_no_outage(
    probes: Probes, events: Events
) -> None:
    breaker = make(probes, events)
    for _ in range(10):
        begun = breaker.begin()
        breaker.answered()
        breaker.failed(GatewayTimeout("silent"), begun, silent=True)
    await breaker.admit()
    assert probes.count == 0
    await breaker.close()


@pytest.mark.parametrize("kind", [BadGateway, Unavailable, GatewayTimeout])
async def test_in_an_outage_it_is_told_at_once_what_is_wrong_and_when_to_come_again(
    probes: Probes, events: Events, told: Told, kind: type[RegistryError]
) -> None:
    probes.outcome = kind("gone away", headers={"Retry-After": "0"})
    breaker = make(probes, events)
    await open_up(breaker, told)
    with pytest.raises(kind, match="lan does not answer: gone away") as raised:
        await breaker.admit()
    assert 1800 <= int(raised.value.headers["Retry-After"]) <= 3600
    await breaker.close()


async def test_it_is_never_said_to_come_again_at_once(probes: Probes, events: Events) -> None:
    assert make(probes, events).retry_after() == 1


async def test_who_is_patient_waits_for_the_end_of_an_outage(
    probes: Probes, events: Events, told: Told
) -> None:
    breaker = make(probes, events, QUICK)
    await open_up(breaker, told)
    waiting = asyncio.create_task(breaker.admit(asyncio.get_running_loop().time() + 60))
    probes.outcome = None
    await waiting
    assert not breaker.is_down
    assert len(told.of(Kind.RECOVERED)) == 1
    await breaker.close()


async def test_patience_ends_at_its_deadline(probes: Probes, events: Events, told: Told) -> None:
    breaker = make(probes, events)
    await open_up(breaker, told)
    with pytest.raises(Unavailable):
        await breaker.admit(asyncio.get_running_loop().time() + 0.01)
    await breaker.close()


async def test_any_answer_ends_an_outage_and_its_probes(
    probes: Probes, events: Events, told: Told
) -> None:
    """Such as one to a request that was under way as it began."""
    breaker = make(probes, events)
    await open_up(breaker, told)
    breaker.answered()
    await breaker.admit()
    assert len(told.of(Kind.RECOVERED)) == 1
    await open_up(breaker, told)
    await breaker.close()


async def test_one_probe_asks_at_a_time(probes: Probes, events: Events, told: Told) -> None:
    breaker = make(probes, events, QUICK)
    await open_up(breaker, told)
    probes.gate.clear()
    probes.began.clear()
    await probes.began.wait()
    asked = probes.count
    fail(breaker, 10)
    assert probes.count == asked
    await breaker.close()


async def test_a_probe_that_breaks_does_not_end_the_probing(
    probes: Probes, events: Events, told: Told
) -> None:
    probes.outcome = LookupError("a fault of our own")
    breaker = make(probes, events, QUICK)
    await open_up(breaker, told)
    probes.outcome = None
    await told.wait_for(Kind.RECOVERED)
    await breaker.close()


async def test_who_leaves_while_waiting_hinders_nobody(
    probes: Probes, events: Events, told: Told
) -> None:
    breaker = make(probes, events, QUICK)
    await open_up(breaker, told)
    later = asyncio.get_running_loop().time() + 60
    leaving, staying = (asyncio.create_task(breaker.admit(later)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    probes.outcome = None
    await staying
    await breaker.close()


@pytest.mark.parametrize("verdict", ["suspected", "open"])
async def test_closing_ends_a_probe_and_tells_whoever_waits(
    probes: Probes, events: Events, told: Told, verdict: str
) -> None:
    breaker = make(probes, events, QUICK)
    if verdict == "open":
        await open_up(breaker, told)
    probes.gate.clear()
    probes.began.clear()
    fail(breaker)
    await probes.began.wait()
    waiting = asyncio.create_task(breaker.admit(asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    await breaker.close()
    with pytest.raises(RegistryError):
        await waiting
    fail(breaker)  # of what was under way; nobody asks any more
    await breaker.close()
