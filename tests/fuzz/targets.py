"""A target within this process: how an input is drawn, and what must hold of it."""

from __future__ import annotations

import gc
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import HANG, Outcome, Stopwatch, resident

_BATCH: Final = 500
# Caches of the interpreter and of libraries (of regular expressions, of URLs) fill up to a bound.
_WARM_UP: Final = 0.2
_SLACK: Final = 32 * 2**20


class Wrong(AssertionError):
    """What must hold of every input does not."""


@dataclass(frozen=True, slots=True)
class Target:
    """`draw` gives an input; `check` looks at what becomes of it and names that in a word or two.

    What `check` raises is a finding: it lets pass only the errors that are documented. A `share`
    is what a target gets of a campaign's inputs, beside the others' shares.
    """

    name: str
    draw: Callable[[Mutator], Any]
    check: Callable[[Any], str]
    share: float = 1.0


class Hung(BaseException):
    """An input took longer than anything may."""


@contextmanager
def _alarm() -> Iterator[Callable[[], object]]:
    """A call that must be repeated within the bound, else `Hung` is raised wherever it hangs."""

    def ring(_: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda: signal.alarm(int(HANG) * 3)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(target: Target, inputs: int, seed: int) -> Outcome:
    """Try so many inputs."""
    outcome = Outcome(target.name)
    mutator = Mutator(f"{seed}/{target.name}")
    elapsed = Stopwatch()
    before = 0
    with _alarm() as set_alarm:
        for number in range(inputs):
            if number % _BATCH == 0:
                set_alarm()
            if before == 0 and number >= inputs * _WARM_UP:
                gc.collect()
                before = resident()
            drawn = target.draw(mutator)
            start = time.perf_counter()
            try:
                reply = target.check(drawn)
            except (Exception, Hung) as error:  # noqa: BLE001 whatever comes out is the finding
                reply = f"!{type(error).__name__}"
                said = "".join(traceback.format_exception(error)[-3:]).replace("\n", " ")
                outcome.find(f"{type(error).__name__}: {error!s:.300} {said[-400:]}", _dump(drawn))
            seconds = time.perf_counter() - start
            if seconds > HANG:
                outcome.find(f"hang: an input took {seconds:.1f} s", _dump(drawn))
            outcome.count(reply, seconds)
    outcome.seconds = elapsed()
    gc.collect()
    outcome.memory = (before, resident())
    growth = outcome.memory[1] - before
    if growth > _SLACK:
        outcome.find(f"memory grew by {growth} bytes over {inputs} inputs")
    return outcome


def _dump(drawn: Any) -> bytes:
    if isinstance(drawn, bytes):
        return drawn
    text = drawn if isinstance(drawn, str) else repr(drawn)
    return text.encode("utf-8", "surrogatepass")
