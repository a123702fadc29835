"""What of all that happens is in the log, and how often."""

from __future__ import annotations

import logging

import pytest

from proxy.event_log import EventLog
from proxy.events import Event, Kind
from proxy.oci import Digest
from tests.clocks import Clock


def _trouble(number: int, repository: str = "app") -> Event:
    digest = Digest.of(b"%d" % number)
    detail = f"upload begun anew: r answered 503 for upload {digest} in r at byte {number + 5000}"
    return Event(Kind.TROUBLE, "r", repository, digest, detail=detail)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_trouble_of_forty_layers_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(clock=Clock())
    for number in range(40):
        log.tell(_trouble(number))
    assert len(_warnings(caplog)) == 1
    log.tell(_trouble(40, "another"))
    log.tell(Event(Kind.TROUBLE, "r", "app", detail="upload begun anew: r answered 500 for app"))
    assert len(_warnings(caplog)) == 3


def test_a_trouble_that_lasts_is_told_once_a_minute_with_how_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = EventLog(clock=clock)
    for number in range(130):
        log.tell(_trouble(number))
        clock.now += 1.0
    first, *others = _warnings(caplog)
    assert "more like it" not in first
    assert [text.rpartition("(")[2] for text in others] == 2 * ["and 59 more like it)"]


def test_what_is_not_a_warning_can_be_read_at_another_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    log = EventLog(clock=Clock())
    for number in range(2):
        log.tell(_trouble(number))
    log.tell(Event(Kind.CREATED, "r", "app"))
    log.tell(Event(Kind.HIT, "r", "app", Digest.of(b"")))
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "DEBUG", "INFO", "DEBUG"]


def test_each_broken_cache_is_told(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(clock=Clock())
    for _ in range(2):
        log.tell(Event(Kind.BROKEN, "r", "app", "cache", detail="it has lost a blob"))
    assert len(_warnings(caplog)) == 2
