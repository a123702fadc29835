"""Takes turns among those that are compared, and tells medians, spreads and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those compared: `run` takes the number of the round and gives a rate."""

    name: str
    run: Callable[[int], float]


def compare(title: str, unit: str, contenders: Sequence[Contender], rounds: int) -> None:
    """Run them in turns, and print the first one's ratio to each of the others.

    Ratios are of the same round; each round begins with another one, as the first may meet what
    the one before left behind.
    """
    values: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            values[contender.name].append(contender.run(number))
    first = contenders[0].name
    print(f"\n{title} ({unit}, {rounds} rounds)")
    for name, measured in values.items():
        line = f"  {name:<18}{_spread(measured, 0)}"
        if name != first:
            ratios = [ours / other for ours, other in zip(values[first], measured, strict=True)]
            line += f"   {first} is {_spread(ratios, 2)} times that"
        print(line, flush=True)


def report(title: str, unit: str, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Print figures that nothing is compared with."""
    print(f"\n{title} ({unit})")
    for name, measured in rows:
        print(f"  {name:<34}{_spread(measured, 2)}", flush=True)


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return f"{middle:>7}"
    return f"{middle:>7} ({min(values):.{digits}f}-{max(values):.{digits}f})"
