"""What commands change of this process when they are called in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    ours, root = logging.getLogger("proxy"), logging.getLogger()
    before = ours.level, root.level
    yield
    ours.setLevel(before[0])
    root.setLevel(before[1])
