"""Traces of the blobs that CI runners pull and push: made up, seeded, the same on every machine.

Sizes are log-normal by kind of blob, from configurations of some KB to layers of a few GB. An
image, and a cache just as well, is a chain: what lies deeper is shared by more and changes less.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Final

# Median in bytes and the sigma of the logarithm, of compressed layers.
_CONFIG: Final = (4e3, 0.7)
_BASE: Final = (3e7, 0.9)
_TOOLS: Final = (4e7, 1.4)
_CODE: Final = (4e5, 2.2)
_CACHE: Final = (3e6, 2.3)
_HUGE: Final = (6e8, 0.9)
_SIZE_MIN: Final = 200
_SIZE_MAX: Final = 4_000_000_000


@dataclass(slots=True)
class Trace:
    """What happens: `events` holds a blob's number for a pull, its complement (~) for a push.

    `sizes` goes by the blob's number and is in bytes.
    """

    random: Random
    sizes: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    @property
    def footprint(self) -> int:
        """The bytes of all blobs that are pulled at least once."""
        return sum(self.sizes[blob] for blob in {event for event in self.events if event >= 0})

    def blob(self, kind: tuple[float, float]) -> int:
        """A new blob's number."""
        median, sigma = kind
        size = int(self.random.lognormvariate(math.log(median), sigma))
        number = len(self.sizes)
        self.sizes.append(min(max(size, _SIZE_MIN), _SIZE_MAX))
        return number

    def pull(self, blobs: Iterable[int]) -> None:
        self.events.extend(blobs)

    def push(self, blobs: Iterable[int]) -> None:
        self.events.extend(~blob for blob in blobs)


class _Popular:
    """Places from 0 on, drawn by Zipf's law."""

    def __init__(self, count: int, exponent: float) -> None:
        self._sums = list(accumulate((place + 1) ** -exponent for place in range(count)))

    def draw(self, random: Random) -> int:
        return bisect_left(self._sums, random.random() * self._sums[-1])


class _Images:
    """Images on shared bases. `pull` is a runner that starts with nothing on its disk."""

    def __init__(self, trace: Trace, *, count: int, exponent: float = 0.9) -> None:
        random = trace.random
        self._trace = trace
        self._bases = [[trace.blob(_BASE), trace.blob(_TOOLS)] for _ in range(max(3, count // 25))]
        self._tools = [[trace.blob(_TOOLS), trace.blob(_CODE)] for _ in range(max(6, count // 6))]
        self._base_of = [random.randrange(len(self._bases)) for _ in self._tools]
        self._tools_of = [random.randrange(len(self._tools)) for _ in range(count)]
        self._code = [self._new_code() for _ in range(count)]
        self._popular = _Popular(count, exponent)

    def draw(self) -> int:
        return self._popular.draw(self._trace.random)

    def layers(self, image: int) -> list[int]:
        tools = self._tools_of[image]
        return [*self._code[image], *self._bases[self._base_of[tools]], *self._tools[tools]]

    def start_jobs(self) -> None:
        """Some runners at a time pull one image, as those of a test matrix do."""
        layers = self.layers(self.draw())
        for _ in range(min(8, 1 + int(self._trace.random.expovariate(0.6)))):
            self._trace.pull(layers)

    def rebuild(self, image: int) -> None:
        """A commit: new code on the same layers, pushed through the proxy."""
        self._code[image] = self._new_code()
        self._trace.push(self._code[image])

    def renew_tools(self) -> None:
        """Someone bumps a dependency: all images on it change at their next build."""
        place = self._trace.random.randrange(len(self._tools))
        self._tools[place] = [self._trace.blob(_TOOLS), self._trace.blob(_CODE)]

    def renew_base(self) -> None:
        place = self._trace.random.randrange(len(self._bases))
        self._bases[place] = [self._trace.blob(_BASE), self._trace.blob(_TOOLS)]

    def _new_code(self) -> list[int]:
        return [self._trace.blob(_CONFIG), self._trace.blob(_CODE), self._trace.blob(_CODE)]


def fan_out(trace: Trace) -> None:
    """Shared bases to many runners; code changes often, dependencies now and then."""
    images = _Images(trace, count=300)
    for step in range(1500):
        images.start_jobs()
        if trace.random.random() < 0.4:
            images.rebuild(images.draw())
        if step % 25 == 0:
            images.renew_tools()
        if step % 300 == 299:
            images.renew_base()


def exports(trace: Trace) -> None:
    """Days of pulls, and each night the caches of all branches sweep through as pushes."""
    images = _Images(trace, count=120)
    once: list[list[int]] = []
    for _ in range(10):
        for step in range(130):
            images.start_jobs()
            if step % 5 == 0:
                images.rebuild(images.draw())
            if once and step % 3 == 0:
                trace.pull(once.pop())
        images.renew_tools()
        once = []
        for _ in range(150):
            layers = [trace.blob(_CONFIG), *(trace.blob(_CACHE) for _ in range(8))]
            trace.push(layers)
            if trace.random.random() < 0.25:
                once.append(layers)
        trace.random.shuffle(once)


def branches(trace: Trace) -> None:
    """Each build imports its branch's cache, and exports what its change made new."""
    random = trace.random
    kinds = (_BASE, _TOOLS, _TOOLS, _CACHE, _CACHE, _CACHE, _CACHE, _CACHE, _CODE, _CODE, _CONFIG)
    main = [trace.blob(kind) for kind in kinds]
    open_branches = [list(main) for _ in range(60)]
    for _ in range(2600):
        if random.random() < 0.06:  # main moves on, and a branch is merged for a new one
            depth = _depth(random, len(kinds), 0.35)
            main[depth:] = [trace.blob(kind) for kind in kinds[depth:]]
            trace.push(main[depth:])
            del open_branches[random.randrange(len(open_branches))]
            open_branches.append(list(main))
        # The younger a branch, the more is done on it.
        age = min(int(random.expovariate(0.09)), len(open_branches) - 1)
        chain = open_branches[-1 - age]
        trace.pull(chain)
        if random.random() < 0.5:
            depth = _depth(random, len(kinds), 0.5)
            chain[depth:] = [trace.blob(kind) for kind in kinds[depth:]]
            trace.push(chain[depth:])


def _depth(random: Random, count: int, chance: float) -> int:
    """Where a change sets in: mostly near the top of the chain."""
    depth = count - 2
    while depth > 1 and random.random() > chance:
        depth -= 1
    return depth


def monorepo(trace: Trace) -> None:
    """A few huge layers beside thousands of small ones."""
    random = trace.random
    huge = [trace.blob(_HUGE) for _ in range(40)]
    small = [trace.blob(_CODE) for _ in range(3000)]
    popular_huge, popular_small = _Popular(len(huge), 0.7), _Popular(len(small), 0.8)
    for step in range(1600):
        trace.pull({huge[popular_huge.draw(random)] for _ in range(2)})
        trace.pull(small[popular_small.draw(random)] for _ in range(10))
        fresh = [trace.blob(_CODE), trace.blob(_CONFIG)]
        trace.push(fresh)
        small[random.randrange(len(small))] = fresh[0]
        if step % 20 == 0:
            place = random.randrange(len(huge))
            huge[place] = trace.blob(_HUGE)
            trace.push([huge[place]])


def pull_requests(trace: Trace) -> None:
    """Most blobs are of branches that are built once: pushed, pulled at most once."""
    images = _Images(trace, count=200)
    for step in range(1500):
        images.start_jobs()
        own = [trace.blob(_CACHE) for _ in range(4)]
        if trace.random.random() < 0.5:
            trace.push(own)
        else:
            trace.pull(own)  # by another runner, straight from upstream
        if step % 40 == 0:
            images.renew_tools()


def shift(trace: Trace) -> None:
    """The team turns to something else: four times nearly everything is new."""
    for _ in range(4):
        images = _Images(trace, count=150)
        for step in range(450):
            images.start_jobs()
            if step % 3 == 0:
                images.rebuild(images.draw())


def rounds(trace: Trace) -> None:
    """A nightly rebuild reads every image in the same order; between, there is ordinary work."""
    images = _Images(trace, count=160, exponent=1.1)
    for _ in range(9):
        for image in range(160):
            trace.pull(images.layers(image))
        for step in range(90):
            images.start_jobs()
            if step % 4 == 0:
                images.rebuild(images.draw())
        images.renew_tools()


def week(trace: Trace) -> None:
    """Two weeks of all of it: work by day, exports by night, rounds on Sunday."""
    random = trace.random
    images = _Images(trace, count=150)
    kinds = (_TOOLS, _CACHE, _CACHE, _CACHE, _CODE, _CODE)
    chains = [[trace.blob(kind) for kind in kinds] for _ in range(40)]
    for day in range(14):
        for step in range(15 if day % 7 > 4 else 90):
            images.start_jobs()
            chain = chains[min(int(random.expovariate(0.15)), len(chains) - 1)]
            trace.pull(chain)
            depth = _depth(random, len(kinds), 0.5)
            chain[depth:] = [trace.blob(kind) for kind in kinds[depth:]]
            if step % 3 == 0:
                trace.push(chain[depth:])
                images.rebuild(images.draw())
        random.shuffle(chains)
        images.renew_tools()
        for _ in range(60):
            trace.push([trace.blob(_CACHE) for _ in range(6)])
        if day % 7 == 6:
            for image in range(150):
                trace.pull(images.layers(image))


WORKLOADS: Final[Mapping[str, Callable[[Trace], None]]] = {
    "fan-out": fan_out,
    "exports": exports,
    "branches": branches,
    "monorepo": monorepo,
    "pull-requests": pull_requests,
    "shift": shift,
    "rounds": rounds,
    "week": week,
}


def trace_of(workload: str, seed: int) -> Trace:
    """The same trace for the same seed, whatever ran before."""
    trace = Trace(Random(f"{workload}/{seed}"))
    WORKLOADS[workload](trace)
    return trace


def next_pulls(events: Sequence[int]) -> list[int]:
    """For each event the place of the same blob's next pull; the trace's length when none comes."""
    following: dict[int, int] = {}
    nexts = [len(events)] * len(events)
    for place in range(len(events) - 1, -1, -1):
        event = events[place]
        blob = event if event >= 0 else ~event
        nexts[place] = following.get(blob, len(events))
        if event >= 0:
            following[blob] = place
    return nexts
