"""When a request is repeated, and after how long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from proxy.upstream import Tuning
from proxy.upstream.retry import Repetitions, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("-1", None),
        ("soon", None),
        ("１２", None),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
        ("Fri, 02 Jan 99999999999 03:04:35 GMT", None),
        ("Fri, 02 Jan 2026 03:04:35 +99999999999", None),
        ("\x1f12", 12.0),
        ("9" * 400, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


async def test_attempts_are_few() -> None:
    repetitions = Repetitions(Tuning(attempts=3, first_pause=0.0))
    assert [await repetitions.pause() for _ in range(4)] == [True, True, False, False]


async def test_patience_with_a_push_has_no_number_of_attempts() -> None:
    repetitions = Repetitions(Tuning(attempts=2, first_pause=0.0), patient=True)
    assert all([await repetitions.pause() for _ in range(50)])


async def test_patience_with_a_push_ends_as_well() -> None:
    repetitions = Repetitions(Tuning(first_pause=0.0, push_patience=0.0), patient=True)
    assert not await repetitions.pause(0.001)


async def test_what_may_be_an_answer_is_soon_taken_for_one() -> None:
    repetitions = Repetitions(Tuning(attempts=3, first_pause=0.0), patient=True)
    assert [await repetitions.pause(few=True) for _ in range(3)] == [True, True, False]


async def test_pauses_of_a_push_grow_to_a_bound_and_no_further() -> None:
    tuning = Tuning(first_pause=0.001, longest_pause=0.002, push_patience=30.0)
    repetitions = Repetitions(tuning, patient=True)
    # Doubled 40 times a thousandth of a second is beyond all patience.
    assert all([await repetitions.pause() for _ in range(40)])


async def test_more_than_our_patience_is_not_waited_for() -> None:
    repetitions = Repetitions(Tuning(patience=5.0))
    started = asyncio.get_running_loop().time()
    assert not await repetitions.pause(asked=3600.0)
    assert asyncio.get_running_loop().time() - started < 1.0


async def test_what_upstream_asks_for_is_waited() -> None:
    repetitions = Repetitions(Tuning(first_pause=0.0))
    started = asyncio.get_running_loop().time()
    assert await repetitions.pause(asked=0.05)
    assert asyncio.get_running_loop().time() - started >= 0.04
