"""Events counted, and gauges read when they are asked for."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.events import Event, Events, Kind
from proxy.metrics import Metrics
from proxy.refusals import Refusals


def samples(text: bytes) -> dict[str, float]:
    """The samples by their names as they are written, labels included."""
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_kind_is_counted_from_zero_with_its_bytes() -> None:
    events = Events()
    metrics = Metrics(events, Refusals())
    events.emit(Event(Kind.HIT, size=100))
    events.emit(Event(Kind.HIT, size=11))
    events.emit(Event(Kind.TROUBLE))
    seen = samples(metrics.render())
    for kind in Kind:
        expected = {Kind.HIT: (2, 111), Kind.TROUBLE: (1, 0)}.get(kind, (0, 0))
        assert expected == (
            seen[f"ecr_cache_proxy_events_total kind={kind.value}"],
            seen[f"ecr_cache_proxy_event_bytes_total kind={kind.value}"],
        )


def test_a_gauge_is_read_each_time() -> None:
    metrics = Metrics(Events(), Refusals())
    values = {"used": 1, "limit": 5}
    metrics.add_gauge("cache_bytes", "Bytes.", lambda: values, label="state")
    metrics.add_gauge("cache_degraded", "Whether.", lambda: values["used"] > 1)
    for used in (1, 3):
        values["used"] = used
        seen = samples(metrics.render())
        assert seen["ecr_cache_proxy_cache_bytes state=used"] == used
        assert seen["ecr_cache_proxy_cache_bytes state=limit"] == 5
        assert seen["ecr_cache_proxy_cache_degraded"] == (used > 1)


def test_two_in_one_process_do_not_count_each_others_events() -> None:
    first, second = Events(), Events()
    ours, others = Metrics(first, Refusals()), Metrics(second, Refusals())
    first.emit(Event(Kind.MISS))
    name = "ecr_cache_proxy_events_total kind=miss"
    assert (samples(ours.render())[name], samples(others.render())[name]) == (1, 0)


def test_the_process_is_measured_too() -> None:
    seen = samples(Metrics(Events(), Refusals()).render())
    assert seen["process_resident_memory_bytes"] > 1e6
    assert seen["process_open_fds"] > 2
