"""What came of the inputs of one target: counts, the slowest, memory, and findings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Longer than this is a hang, in seconds, and nothing that a client sends is worth it.
HANG: Final = 10.0
_MOST_FINDINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and the input that shows it."""

    target: str
    what: str
    shown_by: bytes

    def __str__(self) -> str:
        shown = self.shown_by if len(self.shown_by) < 4000 else self.shown_by[:4000]
        cut = "" if shown == self.shown_by else f" (the first 4000 of {len(self.shown_by)} bytes)"
        return (
            f"{self.target}: {self.what}\n    as text: {shown!r:.600}\n    hex{cut}: {shown.hex()}"
        )


@dataclass(slots=True)
class Outcome:
    """One target's; `memory` is resident bytes before and after, of the process that is tried."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    replies: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_input: bytes = b""
    memory: tuple[int, int] = (0, 0)
    findings: list[Finding] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)

    def count(self, reply: str, seconds: float, input_: bytes = b"") -> None:
        self.inputs += 1
        self.replies[reply] += 1
        if seconds > self.slowest:
            self.slowest, self.slowest_input = seconds, input_
        import os

        if os.environ.get("SLOW") and seconds > 1.5:
            print(reply, seconds, input_[:300])

    def find(self, what: str, shown_by: bytes = b"") -> None:
        """Keep a finding; of many that say the same, the first."""
        kind = what[:60]
        self.found[kind] += 1
        if self.found[kind] == 1 and len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(self.target, what, shown_by))

    def row(self) -> tuple[str, ...]:
        replies = " ".join(f"{name}:{count}" for name, count in self.replies.most_common(9))
        rate = self.inputs / self.seconds if self.seconds else 0.0
        before, after = (f"{size / 2**20:.1f}" for size in self.memory)
        return (
            self.target,
            f"{self.inputs:,}",
            f"{rate:,.0f}",
            f"{self.slowest * 1000:.0f}",
            f"{before}→{after}",
            str(sum(self.found.values())),
            replies,
        )


_HEADINGS: Final = ("target", "inputs", "a second", "slowest ms", "MiB", "findings", "replies")


def table(outcomes: Iterable[Outcome]) -> str:
    rows = [_HEADINGS, *(outcome.row() for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS) - 1)]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]))
        for row in rows
    )


def resident(pid: int | str = "self") -> int:
    """The memory of a process that is resident now, in bytes (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has ended")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start
