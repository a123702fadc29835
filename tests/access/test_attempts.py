"""Wrong credentials, counted by where they come from."""

from __future__ import annotations

import asyncio

import pytest

from proxy.access.attempts import MAX_FAILURES, Attempts, TooManyAttempts, network_of
from tests.clocks import Clock

HERE = "192.0.2.1"


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(clock)


def fail(attempts: Attempts, times: int, address: str = HERE) -> None:
    for n in range(times):
        attempts.begin(address, b"%d" % n)


def test_after_ten_in_a_minute_no_more_is_heard_for_the_rest_of_it(
    attempts: Attempts, clock: Clock
) -> None:
    fail(attempts, MAX_FAILURES)
    clock.now += 20.5
    for attempt in (b"new", b"0"):
        with pytest.raises(TooManyAttempts) as refused:
            attempts.begin(HERE, attempt)
        assert refused.value.retry_after == 40
    clock.now += 39.5
    attempts.begin(HERE, b"new")


def test_the_same_again_is_no_guess(attempts: Attempts) -> None:
    for _ in range(100):
        attempts.begin(HERE, b"old password")
    fail(attempts, MAX_FAILURES - 1)
    with pytest.raises(TooManyAttempts):
        attempts.begin(HERE, b"one more")


def test_what_was_right_does_not_count(attempts: Attempts) -> None:
    for n in range(100):
        attempts.begin(HERE, b"%d" % n)
        attempts.forgive(HERE, b"%d" % n)
    attempts.forgive("192.0.2.9", b"never begun")


def test_other_addresses_are_heard(attempts: Attempts) -> None:
    fail(attempts, MAX_FAILURES, "2001:db8:0:1::1")
    with pytest.raises(TooManyAttempts):
        attempts.begin("2001:db8:0:1:ffff::2", b"another address of the same host")
    attempts.begin("2001:db8:0:2::1", b"x")
    attempts.begin(HERE, b"x")


def test_the_table_has_a_bound(attempts: Attempts) -> None:
    for n in range(20_000):
        attempts.begin(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", b"x")
    assert len(attempts._failed) <= 16_384


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_client_is_an_address_or_a_64_of_ipv6(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_an_address_has_one_turn_at_a_time_and_nothing_is_left_of_it(
    attempts: Attempts,
) -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async def take(name: str, address: str = HERE) -> None:
        async with attempts.turn(address):
            order.append(name)
            await gate.wait()
            order.append(f"{name} done")

    first = asyncio.create_task(take("first"))
    second = asyncio.create_task(take("second"))
    gone = asyncio.create_task(take("gone"))
    elsewhere = asyncio.create_task(take("elsewhere", "192.0.2.2"))
    await asyncio.sleep(0)
    assert order == ["first", "elsewhere"]
    gone.cancel()
    gate.set()
    await asyncio.gather(first, second, elsewhere)
    assert order.index("first done") < order.index("second")
    assert "gone" not in order
    assert not attempts._turns
