"""JSON read without losing a byte: each value with the text that it was written as.

A descriptor goes from one manifest into another as the text it came in, so that numbers, escapes
and the order of keys are never written anew. Nothing here knows what the documents mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

# Deeper than any manifest. With a limit of our own the verdict on a document never depends on how
# much of Python's recursion limit the caller has used up.
_MAX_DEPTH: Final = 32

_SPACE: Final = re.compile(r"[ \t\n\r]*")  # RFC 8259 §2


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded value and its text, without the whitespace around it."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object; its value's text is the object's text from `start` to `end`."""

    key: str
    value: Any
    start: int
    end: int


def read_document(content: bytes) -> dict[str, Value]:
    """The members of the object that `content` holds, UTF-8 and nothing else.

    Raises `ValueError` if it is anything else, is nested too deeply, or has a key twice: then its
    readers may disagree on what it says.
    """
    text = content.decode()
    members: dict[str, Value] = {}
    try:
        found = read_members(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    for member in found:
        if member.key in members:
            raise ValueError(f"the key {member.key[:80]!r} stands there twice")
        members[member.key] = Value(member.value, text[member.start : member.end])
    if not _is_shallow([member.value for member in found]):
        raise ValueError("nested too deeply")
    return members


def read_members(text: str) -> list[Member]:
    """The members of the object that is `text`, in order; raises `ValueError`."""
    position = _expect(text, "{", 0)
    members: list[Member] = []
    if not text.startswith("}", position):
        while True:
            if not text.startswith('"', position):
                raise ValueError(f"no key at character {position}")
            key, position = _DECODER.raw_decode(text, position)
            start = _expect(text, ":", _skip(text, position))
            value, end = _DECODER.raw_decode(text, start)
            members.append(Member(key, value, start, end))
            position = _skip(text, end)
            if not text.startswith(",", position):
                break
            position = _skip(text, position + 1)
    _expect_end(text, _expect(text, "}", position))
    return members


def read_elements(text: str) -> list[Value]:
    """The elements of the array that is `text`, in order; raises `ValueError`."""
    position = _expect(text, "[", 0)
    elements: list[Value] = []
    if not text.startswith("]", position):
        while True:
            value, end = _DECODER.raw_decode(text, position)
            elements.append(Value(value, text[position:end]))
            position = _skip(text, end)
            if not text.startswith(",", position):
                break
            position = _skip(text, position + 1)
    _expect_end(text, _expect(text, "]", position))
    return elements


def replace_strings(text: str, key: str, replacements: Mapping[str, str]) -> str:
    """The object `text` with the string under `key` replaced, wherever there is another for it."""
    parts: list[str] = []
    copied = 0
    for member in read_members(text):
        other = replacements.get(member.value) if isinstance(member.value, str) else None
        if member.key == key and other is not None:
            parts += (text[copied : member.start], json.dumps(other))
            copied = member.end
    return "".join((*parts, text[copied:]))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)


def _skip(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return position if space is None else space.end()


def _expect(text: str, mark: str, position: int) -> int:
    """Where the next thing begins after `mark`, which may have whitespace around it."""
    position = _skip(text, position)
    if not text.startswith(mark, position):
        raise ValueError(f"no {mark!r} at character {position}")
    return _skip(text, position + 1)


def _expect_end(text: str, position: int) -> None:
    if position != len(text):
        raise ValueError(f"something follows at character {position}")


def _is_shallow(level: list[Any]) -> bool:
    for _ in range(_MAX_DEPTH):
        nested: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                nested += value.values()
            elif isinstance(value, list):
                nested += value
        if not nested:
            return True
        level = nested
    return False
