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

_SPACE: Final = r"[ \t\n\r]*"  # RFC 8259 §2
# Each captures the mark that ends the object or array, or goes on with it.
_OBJECT: Final = re.compile(rf"{_SPACE}\{{{_SPACE}(\}}?){_SPACE}")
_ARRAY: Final = re.compile(rf"{_SPACE}\[{_SPACE}(\]?){_SPACE}")
_AFTER_MEMBER: Final = re.compile(rf"{_SPACE}([,}}]){_SPACE}")
_AFTER_ELEMENT: Final = re.compile(rf"{_SPACE}([,\]]){_SPACE}")
_KEY: Final = re.compile(rf'("[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"){_SPACE}:{_SPACE}')


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
    if not _is_shallow([[member.value for member in found]]):
        raise ValueError("nested too deeply")
    return members


def read_members(text: str) -> list[Member]:
    """The members of the object that is `text`, in order; raises `ValueError`."""
    members: list[Member] = []
    mark, position = _match(_OBJECT, text, 0)
    while mark != "}":
        name, start = _match(_KEY, text, position)
        value, end = _DECODER.raw_decode(text, start)
        members.append(Member(json.loads(name) if "\\" in name else name[1:-1], value, start, end))
        mark, position = _match(_AFTER_MEMBER, text, end)
    _expect_end(text, position)
    return members


def read_elements(text: str) -> list[Value]:
    """The elements of the array that is `text`, in order; raises `ValueError`."""
    elements: list[Value] = []
    mark, position = _match(_ARRAY, text, 0)
    while mark != "]":
        value, end = _DECODER.raw_decode(text, position)
        elements.append(Value(value, text[position:end]))
        mark, position = _match(_AFTER_ELEMENT, text, end)
    _expect_end(text, position)
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


def _match(pattern: re.Pattern[str], text: str, position: int) -> tuple[str, int]:
    """What `pattern` captures at `position`, and where the next thing begins after it."""
    match = pattern.match(text, position)
    if match is None:
        raise ValueError(f"no JSON at character {position}")
    return match[1], match.end()


def _expect_end(text: str, position: int) -> None:
    if position != len(text):
        raise ValueError(f"something follows at character {position}")


def _is_shallow(level: list[Any]) -> bool:
    for _ in range(_MAX_DEPTH):
        level = [
            nested
            for value in level
            for nested in (value.values() if isinstance(value, dict) else value)
            if isinstance(nested, (dict, list))
        ]
        if not level:
            return True
    return False
