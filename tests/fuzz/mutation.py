"""Inputs that are almost right: valid ones, changed at a few places by what programs trip over.

All chance comes from one seed, so that a run can be had again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

_T = TypeVar("_T")

# Where numbers end: of bits, of Python's int() of text (4300 digits), of floats.
NUMBERS: Final = (
    *("0", "-0", "-1", "1", "00", "1.5", "1e400", "-1e-400", "0x10", "1_000", "+1"),
    *("255", "256", "65535", "65536", "2147483648", "4294967296", "9007199254740993"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "1" + "0" * 30),
    *("9" * 19, "9" * 20, "9" * 310, "9" * 4300, "9" * 4301, "NaN", "Infinity", "-Infinity"),
)
# What means something to one layer and nothing to the one before it.
_PIECES: Final = (
    *("%00", "%2f", "%2F", "%2e%2e", "%", "%zz", "%25", "%c0%af", "%0d%0a", "%ud800", "%F0%9F"),
    *("..", "/../", "//", "./", "/", "\\", "~", ":", ";", "@", "?", "#", "&", "=", "+", "*", "$"),
    *("\x00", "\r\n", "\n", "\r", "\t", " ", "\x0b", "\x1f", "\x7f", "\x85", "\xa0", "\ufeff"),
    *("é", "ß", "İ", "ı", "K", "٣", "０", "²", "\u2028", "\u202e", "\ud800", "\udcff", "😀"),
    *('"', "'", "\\u0000", "\\ud800", "{", "}", "[", "]", ",", "null", "true", "${x}", "{}", "%s"),
    *("sha256:", "sha512:", "bytes=", "bytes ", "http://", "https://", "http:", "169.254.169.254"),
    *("latest", "_catalog", "blobs", "uploads", "manifests", "tags/list", "referrers", "v2"),
    *("a" * 64, "0" * 64, "-" * 40, "a" * 300, "[" * 50, "é" * 200),
)


class Mutator:
    """Draws inputs by chance; `text` and `content` change one of some seeds that are valid."""

    def __init__(self, seed: int | str) -> None:
        self.chance = random.Random(seed)

    def one(self, of: Sequence[_T]) -> _T:
        return of[int(self.chance.random() * len(of))]

    def often(self, share: float) -> bool:
        return self.chance.random() < share

    def below(self, end: int) -> int:
        return int(self.chance.random() * end)

    def text(self, seeds: Sequence[str], *, unchanged: float = 0.1) -> str:
        """One of the seeds after some changes; as it is in a share of all."""
        text: str = self.one(seeds)
        if self.often(unchanged):
            return text
        while True:
            text = self.one(_CHANGES)(self, text, seeds)
            if self.often(0.6):
                return text

    def content(self, seeds: Sequence[bytes], *, unchanged: float = 0.1) -> bytes:
        """The same for bytes."""
        texts = [seed.decode("latin-1") for seed in seeds]
        changed = self.text(texts, unchanged=unchanged)
        return b"".join(
            part.encode("latin-1") if part < "\u0100" else part.encode("utf-8", "surrogatepass")
            for part in changed
        )

    def number(self) -> str:
        if self.often(0.3):
            return str(self.chance.getrandbits(self.below(70) + 1))
        return str(self.one(NUMBERS))

    def piece(self) -> str:
        return str(self.one(_PIECES)) if self.often(0.8) else chr(self.below(0x11000))


_Change = Callable[[Mutator, str, Sequence[str]], str]


def _insert(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    at = mutator.below(len(text) + 1)
    return text[:at] + mutator.piece() + text[at:]


def _replace(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    at = mutator.below(len(text) + 1)
    return text[:at] + mutator.piece() + text[at + 1 :]


def _flip(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    if not text:
        return text
    at = mutator.below(len(text))
    return text[:at] + chr(ord(text[at]) ^ (1 << mutator.below(8))) + text[at + 1 :]


def _delete(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    start = mutator.below(len(text) + 1)
    return text[:start] + text[start + 1 + mutator.below(8) :]


def _truncate(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    return text[: mutator.below(len(text) + 1)]


def _double(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    start = mutator.below(len(text) + 1)
    end = start + mutator.below(16)
    times = mutator.one((1, 1, 2, 10, 100)) if len(text) < 10_000 else 1
    return text[:start] + text[start:end] * times + text[start:]


def _splice(mutator: Mutator, text: str, seeds: Sequence[str]) -> str:
    other = mutator.one(seeds)
    return text[: mutator.below(len(text) + 1)] + other[mutator.below(len(other) + 1) :]


def _renumber(mutator: Mutator, text: str, seeds: Sequence[str]) -> str:
    """Another number where one stands."""
    at = mutator.below(len(text) + 1)
    start = next((i for i in range(at, len(text)) if "0" <= text[i] <= "9"), None)
    if start is None:
        return _insert(mutator, text, seeds)
    end = start
    while end < len(text) and "0" <= text[end] <= "9":
        end += 1
    return text[:start] + mutator.number() + text[end:]


def _recase(mutator: Mutator, text: str, _: Sequence[str]) -> str:
    start = mutator.below(len(text) + 1)
    end = start + 1 + mutator.below(8)
    return text[:start] + text[start:end].swapcase() + text[end:]


_CHANGES: Final[tuple[_Change, ...]] = (
    *(_insert, _insert, _replace, _replace, _flip, _flip, _renumber, _renumber),
    *(_delete, _double, _splice, _truncate, _recase),
)
