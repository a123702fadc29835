"""How many connections there may be."""

from __future__ import annotations

import pytest

from proxy.errors import RegistryError, TooManyRequests, Unavailable
from proxy.handlers.admission import Admission, Ticket
from proxy.refusals import Reason, Refusals
from tests.clocks import Clock


def test_a_place_that_is_given_back_twice_is_free_once() -> None:
    admission = Admission(Refusals(), most=1, most_per_client=1)
    ticket = admission.enter("192.0.2.1")
    assert isinstance(ticket, Ticket)
    ticket.give_back()
    ticket.give_back()
    assert admission.total == 0
    assert isinstance(admission.enter("192.0.2.2"), Ticket)
    assert isinstance(admission.enter("192.0.2.3"), Unavailable)


def test_a_64_of_ipv6_is_one_client() -> None:
    admission = Admission(Refusals(), most=9, most_per_client=1)
    assert isinstance(admission.enter("2001:db8:1:2::1"), Ticket)
    assert isinstance(admission.enter("2001:db8:1:2:ffff::1"), TooManyRequests)
    assert isinstance(admission.enter("2001:db8:1:3::1"), Ticket)


def test_one_clients_limit_leaves_room_for_others() -> None:
    refusals = Refusals()
    admission = Admission(refusals, most=3, most_per_client=2)
    assert all(isinstance(admission.enter("2001:db8::1"), Ticket) for _ in range(2))
    assert isinstance(admission.enter("2001:db8::2"), TooManyRequests)
    assert isinstance(admission.enter("2001:db8:0:1::1"), Ticket)
    assert refusals.counts()[Reason.CONNECTIONS_PER_CLIENT] == 1
    assert refusals.counts()[Reason.CONNECTIONS] == 0


def test_a_limit_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    admission = Admission(Refusals(), most=1, most_per_client=1, clock=clock)
    for seconds in (0, 1, 58, 1):
        clock.now += seconds
        admission.enter("192.0.2.1")
    (message,) = (record.getMessage() for record in caplog.records)
    assert "max-connections-per-client" in message
    clock.now += 60
    admission.enter("192.0.2.1")
    assert len(caplog.records) == 2


def test_only_so_many_are_told_at_a_time_why_they_are_turned_away() -> None:
    admission = Admission(Refusals(), most=1, most_per_client=1)
    admission.enter("192.0.2.1")
    error = admission.enter("192.0.2.1")
    assert isinstance(error, RegistryError)
    told = [admission.turn_away(error) for _ in range(64)]
    assert None not in told
    assert admission.turn_away(error) is None
    assert told[0] is not None
    told[0].connection_lost(None)
    told[0].give_back()
    assert admission.turn_away(error) is not None
    assert admission.turn_away(error) is None
