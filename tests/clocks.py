"""Time that passes when told."""

from __future__ import annotations


class Clock:
    """Both clocks of a proxy: seconds since some moment, which only go on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
