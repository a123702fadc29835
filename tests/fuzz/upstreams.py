"""Pulls and pushes through a real proxy from a registry that answers garbage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.oci import Digest
from tests.fuzz.client_words import ACCEPTS, USER_AGENTS
from tests.fuzz.clients import judge_memory
from tests.fuzz.documents import Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import Outcome, Stopwatch
from tests.fuzz.processes import Proxy, running
from tests.fuzz.requests import BLOB, CONTENT, REPOSITORY, Sent
from tests.fuzz.wire import Connections

NAME: Final = "hostile upstream"
_WARM_UP: Final = 0.25
# What is wrong upstream is told by these (proxy.errors), and none of them is a fault of the proxy.
# What some clients have (BUILDKIT.md, "Timeouts"): a hostile upstream answers as late as it can.
_PATIENCE: Final = 30.0
_ALLOWED: Final = frozenset(range(501, 600))
# No outage, however many answers are none; little patience, so that there are many answers.
_TUNING: Final = {
    "attempts": 2,
    "first_pause": 0.001,
    "longest_pause": 0.002,
    "failures": 10**9,
    "patience": 1.0,
    "push_patience": 1.0,
    "answer": 1.0,
    "stall": 1.0,
    "idle": 1.5,
    "between": 0.0,
    "queue": 3.0,
    "connections": 128,
}


class _Pulls:
    """Draws what clients ask for; `BLOB` is the one thing that upstream may give rightly."""

    def __init__(self, mutator: Mutator) -> None:
        self._mutator = mutator
        self._documents = Documents(mutator)
        self._uploads: list[str] = []

    def opened(self, location: str) -> None:
        if location not in self._uploads:
            self._uploads.append(location)

    def draw(self) -> Sent:
        mutator = self._mutator
        if len(self._uploads) > 32 or (self._uploads and mutator.often(0.1)):
            return self._use(self._uploads.pop(0))
        method = mutator.one(("GET", "GET", "GET", "HEAD"))
        kind = mutator.below(10)
        # Of many names and digests, so that little is remembered; a few, so that some is.
        name = f"{REPOSITORY}{mutator.below(300)}" if mutator.often(0.8) else REPOSITORY
        digest = Digest.of(b"%d" % mutator.below(2000)) if mutator.often(0.3) else Digest.of(BLOB)
        if kind < 3:
            header = "Range: bytes=5-9" if mutator.often(0.1) else ""
            return _request(method, f"/v2/{name}/blobs/{digest}", header)
        if kind < 6:
            reference = mutator.one((f"t{mutator.below(100)}", str(digest)))
            headers = (f"Accept: {mutator.one(ACCEPTS)}", f"User-Agent: {mutator.one(USER_AGENTS)}")
            return _request(method, f"/v2/{name}/manifests/{reference}", *headers)
        if kind == 6:
            listed = mutator.one(("/tags/list", f"/referrers/{digest}", "/tags/list?n=2&last=a"))
            return _request("GET", f"/v2/{name}{listed}")
        if kind == 7:
            return _request("GET", "/v2/_catalog")
        if kind == 8:
            mount = f"?mount={digest}&from=other" if mutator.often(0.3) else ""
            return _request("POST", f"/v2/{name}/blobs/uploads/{mount}")
        method = mutator.one(("PUT", "PUT", "DELETE"))
        body = self._documents.content() if method == "PUT" else b""
        return _request(method, f"/v2/{name}/manifests/t", body=body)

    def _use(self, location: str) -> Sent:
        if self._mutator.often(0.3):
            return _request("DELETE", location)
        joint = "&" if "?" in location else "?"
        digest = Digest.of(CONTENT)
        return _request("PUT", f"{location}{joint}digest={digest}", body=CONTENT)


def _request(method: str, path: str, *headers: str, body: bytes = b"") -> Sent:
    length = [f"Content-Length: {len(body)}"] if method in ("PUT", "POST") else []
    kept = [header for header in headers if header]
    lines = [f"{method} {path} HTTP/1.1", "Host: proxy", *kept, *length]
    return Sent(method, "\r\n".join((*lines, "", "")).encode() + body, sound=True)


async def run(inputs: int, seed: int) -> Outcome:
    """Ask about so many times."""
    outcome = Outcome(NAME)
    with tempfile.TemporaryDirectory() as name, _hostile(seed) as port:
        config = _configure(Path(name), port)
        with running(Path(name, "proxy"), tuning=_TUNING, flags={"config": config}) as proxy:
            await _campaign(proxy, outcome, inputs, seed)
            proxy.judge(outcome)
    return outcome


async def _campaign(proxy: Proxy, outcome: Outcome, inputs: int, seed: int) -> None:
    pulls = _Pulls(Mutator(f"{seed}/{NAME}"))
    connections = Connections(
        *(proxy.port, outcome, pulls.draw),
        opened=pulls.opened,
        allowed=_ALLOWED,
        patience=_PATIENCE,
        batch=4,
        count=64,
    )
    elapsed = Stopwatch()
    await connections.run(int(inputs * _WARM_UP))
    before, counted = proxy.memory(), outcome.inputs
    await connections.run(inputs - counted)
    outcome.seconds = elapsed()
    outcome.memory = (before, proxy.memory())
    judge_memory(outcome, outcome.inputs - counted)


def _configure(folder: Path, port: int) -> str:
    password = folder / "password"
    password.write_text("p\n")
    config = folder / "proxy.toml"
    config.write_text(
        f'[[registry]]\nurl = "http://127.0.0.1:{port}"\nrewrite = "always"\n'
        f'username = "u"\npassword-file = "{password}"\n'
    )
    return str(config)


@contextmanager
def _hostile(seed: int) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.fuzz.hostile", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
