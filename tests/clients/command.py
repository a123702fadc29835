"""Finding and running the programs under test. What a given client is asked to do is not here."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.canaries.watch import WATCH

# Nothing here takes longer than seconds; a client that hangs must not hang the suite.
TIMEOUT = 180.0

# The programs that daemons and clients call (runc, tar, gzip) are found in these, whatever PATH the
# caller of the suite has.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandFailed(AssertionError):
    """A client returned an error where the test expected success; the text is what it printed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code, and all that it printed, both streams as one text."""

    returncode: int
    log: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.returncode == 0


def run(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    check: bool = True,
    stdin: str = "",
) -> Outcome:
    """Runs a program to its end in exactly the environment given.

    Raises CommandFailed when it fails and `check` is set, and subprocess.TimeoutExpired after
    TIMEOUT seconds.
    """
    begun = time.monotonic()
    done = subprocess.run(
        [str(argument) for argument in arguments],
        env=dict(env),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=False,
    )
    WATCH.see("clients' output", done.stdout)
    outcome = Outcome(done.returncode, done.stdout, time.monotonic() - begun)
    if check and not outcome.ok:
        words = " ".join(str(argument) for argument in arguments)
        raise CommandFailed(f"exit code {outcome.returncode}: {words}\n{outcome.log}")
    return outcome


def unpacked_clients() -> Path:
    """The folder into which `.ci/clients` unpacks the Docker Engine."""
    configured = os.environ.get("TEST_CLIENTS")
    return Path(configured) if configured else Path.home() / ".cache" / "ecr-cache-proxy-clients"


def find_program(name: str) -> Path | None:
    """A program of the system, found where the tests will run it."""
    found = shutil.which(name, path=SYSTEM_PATH)
    return Path(found) if found else None


def find_static_busybox() -> Path | None:
    """A busybox that runs in an image that holds nothing else, or None.

    A dynamically linked one, which Debian's `busybox` package brings, names its loader in the file.
    """
    found = find_program("busybox")
    return found if found is not None and b"/ld-linux" not in found.read_bytes() else None
