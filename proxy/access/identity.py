"""Who a client is, as far as it has shown it, and what it may want."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_MAX_USER: Final = 255


class AccessError(Exception):
    """A file or a setting that says who may come in, and cannot be used: one line."""


class Action(StrEnum):
    """What rules allow in a repository."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user; `user` is empty where clients need not say who they are."""

    user: str


NOBODY: Final = Identity("")


def check_user(name: str, *, has_colon: bool = False) -> str:
    """The name, if it can be a user's; raises `ValueError`.

    It stands in lines of files, in the log, and in Basic credentials, where a colon ends it
    (RFC 7617 §2); only one that comes from elsewhere can have one.
    """
    if not name or name != name.strip() or name.startswith("#"):
        raise ValueError("a user's name is not empty, and begins with neither space nor #")
    if ":" in name and not has_colon:
        raise ValueError("a user's name has no colon")
    if not name.isprintable():
        raise ValueError("a user's name has nothing that cannot be printed")
    if len(name) > _MAX_USER:
        raise ValueError(f"a user's name has {_MAX_USER} characters at most")
    return name
