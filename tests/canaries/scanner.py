"""Finds canaries in bytes, whatever they were encoded as.

All of them share a mark, in plain or in base64 (a registry token's): first its few dozen forms are
looked for, which costs next to nothing, and only where one is found, which canary it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.standin.settings import MARK
from tests.canaries.encodings import forms
from tests.canaries.values import TOKEN_MARK, Canary

# A part of one that cannot be told from another: the mark is there, and what should follow is not.
UNKNOWN: Final = "a part of some secret"
# So much of what comes before a piece of a stream is kept: no form of the mark is longer.
OVERLAP: Final = 256


@dataclass(frozen=True, slots=True)
class Found:
    """A canary, and as what it was there."""

    canary: str
    encoding: str


class Scanner:
    """Looks for some canaries; `plant` adds one that a test makes, which need not have the mark."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._marks = _unique(form for mark in (MARK, TOKEN_MARK) for _, form in forms(mark))
        self._canaries = [(canary, _named(canary)) for canary in canaries]
        self._planted: list[tuple[Canary, dict[bytes, str]]] = []

    def plant(self, canary: Canary) -> None:
        self._planted.append((canary, _named(canary)))

    def uproot(self, canary: Canary) -> None:
        self._planted = [each for each in self._planted if each[0] is not canary]

    def find(self, text: bytes) -> list[Found]:
        """Every canary in the text, each encoding of it once."""
        found: list[Found] = []
        if any(mark in text for mark in self._marks):
            found = _search(text, self._canaries)
            if not found:
                found = [Found(UNKNOWN, "or another")]
        return found + _search(text, self._planted)

    def hide(self, text: str) -> str:
        """The text with every form of every mark cut out, fit to be shown."""
        hidden = text.encode("utf-8", "replace")
        for mark in self._marks:
            hidden = re.sub(re.escape(mark) + rb"[\w/+=%.-]*", b"<SECRET>", hidden)
        for _, named in self._planted:
            for form in named:
                hidden = hidden.replace(form, b"<SECRET>")
        return hidden.decode("utf-8", "replace")


def _search(text: bytes, canaries: Iterable[tuple[Canary, dict[bytes, str]]]) -> list[Found]:
    found = {
        Found(canary.name, encoding): None
        for canary, named in canaries
        for form, encoding in named.items()
        if form in text
    }
    return list(found)


def _named(canary: Canary) -> dict[bytes, str]:
    """The forms of a canary; one that two encodings make has the name of the first.

    What only escapes leaves letters and digits as they are, and counts as raw.
    """
    named: dict[bytes, str] = {}
    for encoding, form in forms(canary.core):
        named.setdefault(form, encoding)
    return named


def _unique(texts: Iterable[bytes]) -> Sequence[bytes]:
    """Without repetitions, and without what has another one in it, which is found anyway."""
    unique = sorted(set(texts), key=len)
    kept: list[bytes] = []
    for text in unique:
        if not any(other in text for other in kept):
            kept.append(text)
    return kept
