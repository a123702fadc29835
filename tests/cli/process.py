"""Runs the program as its user does: a process of its own, pipes, signals, exit codes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from tests.canaries.watch import WATCH

# Far more than anything here takes; a program that hangs must not hang the tests.
PATIENCE = 60.0
COMMAND = (sys.executable, "-W", "error", "-m", "proxy")


def environment(**variables: str) -> dict[str, str]:
    """This environment without our own variables, AWS's and forward proxies, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("ECR_CACHE_PROXY_", "AWS_"))
        and not name.lower().endswith("_proxy")
    }
    return kept | variables


# The one command whose output has secrets in it: the stand-in's, for whoever tries it out.
TELLS_SECRETS = "standin"


class Lines:
    """The lines of a pipe, read as they come, so that it never fills up; watched for secrets."""

    def __init__(self, stream: IO[str], *, channel: str | None = "processes' output") -> None:
        self._stream = stream
        self._channel = channel
        self._coming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for(self, text: str) -> str:
        """The next line that contains the text."""
        while True:
            line = self._coming.get(timeout=PATIENCE)
            assert line is not None, f"no line with {text!r} in {self._seen}"
            self._seen.append(line)
            if text in line:
                return line

    def rest(self) -> list[str]:
        """All lines that nobody has waited for, once the program has ended."""
        lines = []
        while (line := self._coming.get(timeout=PATIENCE)) is not None:
            lines.append(line)
        return [*self._seen, *lines]

    def close(self) -> None:
        self._thread.join()
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            if self._channel is not None:
                WATCH.see(self._channel, line)
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)


class Program:
    """A running `ecr-cache-proxy`."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        told = TELLS_SECRETS in arguments
        self.output = Lines(self._process.stdout, channel=None if told else "processes' stdout")
        self.errors = Lines(self._process.stderr, channel="processes' stderr")

    @property
    def id(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.output.close()
        self.errors.close()


@contextmanager
def started(arguments: Sequence[str], **variables: str) -> Iterator[Program]:
    """`ecr-cache-proxy` with these arguments, ended when the context is left."""
    program = Program(arguments, variables)
    try:
        yield program
    finally:
        program.close()


def finished(
    arguments: Sequence[str], *, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """`ecr-cache-proxy` with these arguments, run to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    WATCH.see("processes' stdout", done.stdout)
    WATCH.see("processes' stderr", done.stderr)
    return done
