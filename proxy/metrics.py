"""What the proxy has done and holds, as numbers for Prometheus.

A leaf: it counts what is told of, and asks plain functions for the rest when it is asked itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client import generate_latest as render_text
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.events import Event, Events, Kind
from proxy.refusals import Refusals

_PREFIX: Final = "ecr_cache_proxy_"

Reading: TypeAlias = Callable[[], float | Mapping[str, float]]
"""Gives a number at once, or one for each value of a label."""


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    help: str
    read: Reading
    label: str | None


class Metrics(Collector):
    """Counters of events from now on, and gauges that are read when they are asked for.

    Plain numbers until somebody asks: an event costs two additions.
    """

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, events: Events, refusals: Refusals) -> None:
        # All of them from the start: a rate needs the zero that comes before the first one.
        self._counts = dict.fromkeys(Kind, 0)
        self._bytes = dict.fromkeys(Kind, 0)
        self._refusals = refusals
        self._gauges: list[_Gauge] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        events.subscribe(self._count)

    def add_gauge(self, name: str, text: str, read: Reading, *, label: str | None = None) -> None:
        """A number that `read` gives, under `ecr_cache_proxy_` and that name; `text` explains it.

        With a label `read` gives the numbers by its values.
        """
        self._gauges.append(_Gauge(_PREFIX + name, text, read, label))

    def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return render_text(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the library, when it renders."""
        for name, text, counts in (
            ("events", "What happened, by kind.", self._counts),
            ("event_bytes", "Bytes that the events were about, by kind.", self._bytes),
        ):
            counter = CounterMetricFamily(_PREFIX + name, text, labels=["kind"])
            for kind, count in counts.items():
                counter.add_metric([kind.value], count)
            yield counter
        refusals = CounterMetricFamily(
            _PREFIX + "refusals",
            "What was refused to clients for safety's sake, or for a limit, by reason; redirect: "
            "where a registry sent us and we do not go.",
            labels=["reason"],
        )
        for reason, count in self._refusals.counts().items():
            refusals.add_metric([reason], count)
        yield refusals
        for gauge in self._gauges:
            yield _family(gauge)

    def _count(self, event: Event) -> None:
        self._counts[event.kind] += 1
        self._bytes[event.kind] += event.size


def _family(gauge: _Gauge) -> Metric:
    labels = [] if gauge.label is None else [gauge.label]
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
    value = gauge.read()
    if isinstance(value, Mapping):
        for name, number in value.items():
            family.add_metric([name], number)
    else:
        family.add_metric([], value)
    return family
