"""Who a client is, as far as it has shown it, and what it may want."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


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
