"""How many connections the limit on open files leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging, resource, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from proxy.file_limit import room_for_connections
room = room_for_connections(100)
print(room, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def _told(*, soft: int, hard: int) -> list[str]:
    """In a process of its own: a hard limit that is lowered stays so."""
    program = PROGRAM.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("soft", [64, 456, 1000])
def test_the_soft_limit_is_raised_to_what_is_needed(soft: int) -> None:
    assert _told(soft=soft, hard=1000) == [f"100 {max(soft, 456)} 1000"]


def test_where_the_hard_limit_is_too_low_fewer_are_taken_and_that_is_said() -> None:
    warning, told = _told(soft=64, hard=356)
    assert told == "50 356 356"
    assert "50 connections at most" in warning
    assert "LimitNOFILE" in warning
