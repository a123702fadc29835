"""Which policy of eviction keeps the bytes that will be pulled: a simulation, no proxy runs.

What counts is the byte hit ratio: of the bytes pulled, the part that does not cross the uplink.
A policy's regret is what the best of them has more than it, with that workload and that size of
cache; the least worst-case regret wins, since nobody can say beforehand what a team's work is like.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from tests.bench.eviction_policies import CONTENDERS, Contender
from tests.bench.eviction_workloads import WORKLOADS, Trace, next_pulls, trace_of

# Sizes of the cache, as parts of the bytes of all blobs that are pulled.
SHARES: Final = (0.05, 0.1, 0.25, 0.5)
QUICK_SHARES: Final = (0.1, 0.25)
# Those that every team has; the others try what a policy may be bad at.
QUICK_WORKLOADS: Final = ("fan-out", "exports", "branches")


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, and the size of the cache that it meets."""

    workload: str
    share: float


@dataclass(frozen=True, slots=True)
class Results:
    """Byte hit ratios, each the mean over the seeds, by case and policy; and their bounds."""

    ratios: Mapping[Case, Mapping[str, float]]
    bounds: Mapping[Case, float]

    def regret(self, case: Case, policy: str) -> float:
        ratios = self.ratios[case]
        return max(ratios.values()) - ratios[policy]

    def regrets(self, policy: str, workload: str | None = None) -> list[float]:
        """Of all cases, or those of one workload."""
        return [
            self.regret(case, policy) for case in self.ratios if workload in (None, case.workload)
        ]


def simulate(
    workloads: Iterable[str] = tuple(WORKLOADS),
    shares: Sequence[float] = SHARES,
    *,
    seeds: int,
) -> Results:
    """Replay each workload's traces, of seeds 0 and up, for each policy and size of cache."""
    ratios: dict[Case, dict[str, float]] = {}
    bounds: dict[Case, float] = {}
    for workload in workloads:
        traces = [trace_of(workload, seed) for seed in range(seeds)]
        for share in shares:
            case = Case(workload, share)
            ratios[case] = {
                name: statistics.fmean(
                    byte_hit_ratio(trace, make, int(share * trace.footprint)) for trace in traces
                )
                for name, make in CONTENDERS.items()
            }
            bounds[case] = statistics.fmean(
                bound(trace, int(share * trace.footprint)) for trace in traces
            )
    return Results(ratios, bounds)


def byte_hit_ratio(trace: Trace, make: Callable[[int], Contender], capacity: int) -> float:
    """Replay a trace with a cache of `capacity` bytes: of the bytes pulled, the part it had.

    What is pushed is stored too, but is no hit; what is larger than the cache is not stored.
    """
    policy = make(capacity)
    stored: set[int] = set()
    used = hits = pulled = 0
    for event in trace.events:
        blob = max(event, ~event)
        size = trace.sizes[blob]
        if event >= 0:
            pulled += size
        if blob in stored:
            if event >= 0:
                hits += size
                policy.use(blob)
        elif size <= capacity:
            while used + size > capacity:
                victim = policy.evict()
                stored.remove(victim)
                used -= trace.sizes[victim]
            policy.add(blob, size)
            stored.add(blob)
            used += size
    return hits / pulled


def bound(trace: Trace, capacity: int) -> float:
    """What no policy exceeds, even if it knew the future.

    Belady's rule, on bytes: with no room for all, those go that are needed latest, be they a part
    of a blob. Each byte being worth the same, no choice of parts is better, let alone of wholes.
    """
    never = len(trace.events)
    kept: dict[int, tuple[int, int]] = {}  # the place of the next pull, and how many bytes
    latest: list[tuple[int, int]] = []
    used = hits = pulled = 0
    for event, needed in zip(trace.events, next_pulls(trace.events), strict=True):
        blob = max(event, ~event)
        _, had = kept.pop(blob, (never, 0))
        used -= had
        if event >= 0:
            hits += had
            pulled += trace.sizes[blob]
        if needed < never:
            kept[blob] = needed, trace.sizes[blob]
            used += trace.sizes[blob]
            heappush(latest, (-needed, blob))
        while used > capacity:
            place, last = latest[0]
            due, size = kept.get(last, (never, 0))
            if due != -place:
                heappop(latest)  # it was pulled or pushed since
                continue
            left = max(0, size - (used - capacity))
            used -= size - left
            if left:
                kept[last] = due, left
            else:
                heappop(latest)
                del kept[last]
    return hits / pulled


# What is printed


def tables(results: Results) -> str:
    """Byte hit ratios by size of cache, and the regrets, the least worst case first."""
    workloads = list(dict.fromkeys(case.workload for case in results.ratios))
    shares = list(dict.fromkeys(case.share for case in results.ratios))
    policies = sorted(CONTENDERS, key=lambda policy: max(results.regrets(policy)))
    lines = []
    for share in shares:
        cases = [Case(workload, share) for workload in workloads]
        lines += [
            f"byte hit ratio in %, cache of {share:.0%} of all bytes that are pulled",
            _row("", workloads),
            *(_row(name, [results.ratios[case][name] for case in cases]) for name in policies),
            _row("no policy exceeds", [results.bounds[case] for case in cases]),
            "",
        ]
    lines += [
        "regret in points: the worst of each workload, and of all; the mean of all",
        _row("", [*workloads, "worst", "mean"]),
    ]
    for name in policies:
        worst = [max(results.regrets(name, workload)) for workload in workloads]
        lines.append(_row(name, [*worst, max(worst), statistics.fmean(results.regrets(name))]))
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str | float]) -> str:
    texts = [cell if isinstance(cell, str) else f"{100 * cell:.1f}" for cell in cells]
    return f"  {name:<18}" + "".join(f"{text:>15}" for text in texts)
