"""The demo's own words, pasted: its commands must do what it says that they do."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.canaries.watch import WATCH

from .containers import Skopeo
from .engine import Engine

LAST_LINE = "Ctrl-C ends the demo"


@contextmanager
def _demo() -> Iterator[tuple[str, list[str]]]:
    """What a running demo has printed to paste, and (at the end) what it told of the work."""
    command = [sys.executable, "-m", "proxy", "demo", "--listen", "127.0.0.1:0"]
    told: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pasted = ""
        for line in demo.stdout:
            if line.startswith(LAST_LINE):
                break
            pasted += line
        try:
            yield pasted, told
        finally:
            demo.send_signal(signal.SIGINT)
            told += demo.stdout.read().splitlines()
            WATCH.see("processes' stdout", "\n".join([pasted, *told]))
    assert demo.returncode == 0


def _part(pasted: str, begin: str, end: str) -> str:
    """The lines from the comment `begin` to the comment `end`."""
    return pasted[pasted.index(begin) : pasted.index(end)]


def test_the_commands_that_the_demo_prints_work_as_printed(engine: Engine, skopeo: Skopeo) -> None:
    with _demo() as (pasted, told):
        setting_up = _part(pasted, "# Something to build", "# docker buildx")
        buildx = _part(pasted, "# The cache in the legacy form", "# buildctl")
        copying = pasted[pasted.index("# skopeo") :]
        outcome = engine.shell(setting_up + buildx + "ls -l image.tar\n" + copying)
    assert "CACHED" in outcome.log
    assert "application/vnd.buildkit.cacheconfig.v0" in outcome.log  # skopeo's inspect
    kinds = {match[1] for line in told if (match := re.match(r"[\d:]+  (\S+)", line))}
    assert {"rewritten", "pushed-blob", "hit"} <= kinds, told
    assert "bytes that did not cross the uplink" in told[-1]
