"""The processes of these tests, seen from the test: the fork server, the watcher, the stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.config import RegistrySettings
from proxy.events import Kind
from tests.canaries.watch import WATCH
from tests.cli.process import environment
from tests.crash.server import LETTERS, Order
from tests.crash.watcher import Watched

# Far more than anything here takes; a process that hangs must not hang the tests.
PATIENCE = 60.0


class Proxies:
    """Proxies over one directory, one at a time, each a process of its own."""

    def __init__(self, process: Process, order: Order) -> None:
        self.order = order
        self.peak = 0  # the most memory that one of them took, in bytes
        self._process = process
        self._pid = 0
        self._port = 0

    @property
    def port(self) -> int:
        """Where the present one listens on 127.0.0.1."""
        assert self._port
        return self._port

    async def fork(self) -> None:
        """Begin a start."""
        assert self._process.stdin is not None
        self._process.stdin.write(self.order.line())
        self._pid = (await self._report())["forked"]

    async def ready(self) -> None:
        """Wait until it listens."""
        report = await self._report()
        assert "ready" in report, f"the proxy did not start: {report}"
        self._port = report["ready"]

    async def start(self) -> None:
        await self.fork()
        await self.ready()

    async def kill(self) -> None:
        """End it between two instructions."""
        assert await self._end(signal.SIGKILL) == -signal.SIGKILL

    async def stop(self) -> None:
        """Let it end by itself, which must go well."""
        assert await self._end(signal.SIGTERM) == 0

    async def _end(self, number: signal.Signals) -> int:
        # Until its end is reported nobody else has its id. One that ended by itself, which none
        # may, has another status than it would have got from the signal.
        os.kill(self._pid, number)
        report = await self._report()
        if "ready" in report:  # it was killed in its start, and not soon enough
            report = await self._report()
        self.peak = max(self.peak, report["peak"])
        self._pid = self._port = 0
        return int(report["ended"])

    async def _report(self) -> dict[str, int]:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        report: dict[str, int] = json.loads(line)
        return report

    async def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def told(self) -> Counter[Kind]:
        """How often each kind of event was told by all of them."""
        path = Path(self.order.events)
        letters = Counter(path.read_text() if path.exists() else "")
        return Counter({kind: letters[letter] for kind, letter in LETTERS.items()})


@asynccontextmanager
async def proxies(order: Order, log: Path) -> AsyncIterator[Proxies]:
    """A fork server with its log in a file."""
    async with _python("tests.crash.server", log=log) as process:
        proxies = Proxies(process, order)
        try:
            yield proxies
        finally:
            await proxies.close()
            WATCH.see("processes' stderr", log.read_bytes())  # noqa: ASYNC240 at the end


@asynccontextmanager
async def watching(directory: Path, limit: int) -> AsyncIterator[Watched]:
    """A watcher; what it gives is filled in when the context has been left."""
    watched = Watched()
    async with _python("tests.crash.watcher", str(directory), str(limit)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"watching\n"
        yield watched
        process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        for name, value in json.loads(line).items():
            setattr(watched, name, value)


@asynccontextmanager
async def upstream(directory: Path) -> AsyncIterator[dict[str, Any]]:
    """A stand-in that hands out blobs that no image names; its addresses and credentials."""
    async with _python("tests.bench.upstream", str(directory)) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            told: dict[str, Any] = json.loads(await process.stdout.readline())
        yield told
        process.terminate()


def registry_at(told: dict[str, Any]) -> RegistrySettings:
    """It as the ECR registry that it plays."""
    return RegistrySettings(
        name=told["host"],
        url=told["url"],
        ecr=True,
        api_url=told["url"],
        access_key_id=told["access_key_id"],
        secret_access_key=told["secret_access_key"],
    )


@asynccontextmanager
async def _python(module: str, *arguments: str, log: Path | None = None) -> AsyncIterator[Process]:
    """A module run as a program; it ends with its input, or is told to."""
    errors = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", module, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        env=environment(AWS_EC2_METADATA_DISABLED="true"),
    )
    try:
        yield process
    finally:
        if errors is not None:
            os.close(errors)
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
