"""Sizes and durations as people write them, both ways. Pure; a leaf."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# IEC units are powers of 1024 and SI units powers of 1000; a bare letter is a power of 1024, as in
# nginx, Docker and systemd.
_UNITS: Final = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)

# Beyond this a number is a mistake, and soon no float any more.
_MOST_DIGITS: Final = 30

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of something whose size is not known yet: bytes, or a fraction of it (0 to 1)."""

    size: int = 0
    fraction: float = 0.0

    def of(self, whole: int) -> int:
        """Bytes of a whole of so many."""
        return self.size + int(self.fraction * whole)


def parse_size(text: str) -> int:
    """Bytes of `20GiB`, `500MB`, `1.5TiB`, `64M` or `1024`; raises `ValueError` for people."""
    match = _SIZE.fullmatch(text.strip())
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f"{text!r} is no size; write a number of bytes, or a number with a unit: "
            "20GiB, 500MB, 1.5TiB"
        )
    if len(match[1]) > _MOST_DIGITS:
        raise ValueError(f"{text[:40]!r} is too large a size: no disk has so much")
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def parse_share(text: str) -> Share:
    """`5%`, or a size as `parse_size` reads it; raises `ValueError` with a sentence."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        return Share(size=parse_size(text))
    if float(match[1]) > 100:
        raise ValueError(f"{text!r} is more than the whole")
    return Share(fraction=float(match[1]) / 100)


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `2m`, `1h30m`, `500ms` or `30`; raises `ValueError` with a sentence."""
    text = text.strip()
    is_number = _NUMBER.fullmatch(text) is not None
    if not is_number and not _DURATION.fullmatch(text):
        raise ValueError(
            f"{text!r} is no duration; write a number of seconds, or numbers with units: "
            "30s, 2m, 1h30m, 500ms"
        )
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:40]!r} is too long a duration: nothing takes so much time")
    if is_number:
        return float(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_size(size: int) -> str:
    """Bytes for people, three or four characters of number and an IEC unit: `1.5 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
