"""The stand-in and the proxy beside the tests of real clients, which block: each runs elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.standin import StandIn, StandInSettings
from tests.canaries.watch import WATCH

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


@contextmanager
def standin_in_a_thread(settings: StandInSettings) -> Iterator[StandIn]:
    """A stand-in with an event loop of its own; its state and requests can be read from here."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stand-in")
    thread.start()

    async def start() -> StandIn:
        standin = StandIn(settings)
        await standin.start()
        return standin

    try:
        standin = asyncio.run_coroutine_threadsafe(start(), loop).result(_START_SECONDS)
        try:
            yield standin
        finally:
            asyncio.run_coroutine_threadsafe(standin.close(), loop).result(_STOP_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class ServedProxy:
    """`ecr-cache-proxy serve` in a process of its own, configured as a person would.

    `settings` are further lines for the top of its file, and `tables` for its end.
    """

    def __init__(
        self, folder: Path, standin: StandIn, settings: str = "", tables: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = ""
        self.log = folder / "proxy.log"
        self._cache = folder / "cache"
        self._config = folder / "proxy.toml"
        self._config.write_text(
            f"{settings}\n"
            "[[registry]]\n"
            f'host = "{standin.host}"\n'
            f'endpoint = "{standin.url}"\n'
            f'api-endpoint = "{standin.url}"\n'
            f"{tables}"
        )
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "AWS_ACCESS_KEY_ID": standin.access_key_id,
            "AWS_SECRET_ACCESS_KEY": standin.secret_access_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process: subprocess.Popen[str] | None = None

    def forget_peak(self) -> None:
        """Let `peak_memory` begin with what the process takes now."""
        assert self._process is not None
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # resets VmHWM, proc(5)

    def peak_memory(self) -> int:
        """The most memory that the process has taken so far, in bytes."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def start(self) -> None:
        """Start it, and wait for the line that says where it listens."""
        command = [sys.executable, "-m", "proxy", "serve", "--config", str(self._config)]
        command += ["--listen", "127.0.0.1:0", "--cache-dir", str(self._cache)]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        address = re.search(r"https?://([^\s,]+)", line)
        if address is None:
            self.stop()
            raise AssertionError(f"the proxy did not start: {line}{self.log.read_text()}")
        self.address = address[1]

    def stop(self) -> None:
        """As a service manager does; it must end by itself, and with success."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        code = process.wait(_STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
        WATCH.see("processes' stderr", self.log.read_bytes())
        assert code == 0, f"the proxy ended with {code}: {self.log.read_text()}"

    def restart(self, empty_cache: bool = False) -> None:
        """The address may be another one afterwards."""
        self.stop()
        if empty_cache:
            shutil.rmtree(self._cache)
        self.start()
