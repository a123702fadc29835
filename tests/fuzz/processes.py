"""A proxy in a process and a folder of its own, watched: its log, its memory, what it writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from proxy.cache.layout import is_blob, is_leftover, key_at
from proxy.oci import Digest
from tests.canaries.watch import WATCH
from tests.cli.process import environment
from tests.fuzz.outcome import Outcome, resident

_ROOT: Final = Path(__file__).parents[2]
_STOP_SECONDS: Final = 60.0
_FLAGS: Final = {
    "listen": "127.0.0.1:0",
    "cache_size": "64MiB",
    "min_free": "0",
    "shutdown_timeout": "10s",
    "max_connections_per_client": "1000",
    "max_uploads_per_client": "100000",
    "header_timeout": "5s",
    "body_timeout": "5s",
}
_OURS: Final = frozenset({"lock", "secret", "checkpoint", "control.sock"})
_ENTRY: Final = re.compile(rb"^(?=[0-9]{4}-[0-9]{2}-[0-9]{2} )", re.MULTILINE)
_TROUBLE: Final = re.compile(rb"Traceback \(most|Logging error|never (?:awaited|retrieved)")
# aiohttp logs what it cannot parse this way, before any of our code sees it.
_EXPECTED: Final = re.compile(rb"^aiohttp\.http_exceptions\.", re.MULTILINE)


class Proxy:
    """One that runs. Everything that it could write to by mistake lies below one folder."""

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        flags: Mapping[str, object],
        tuning: Mapping[str, object],
    ) -> None:
        self._folder = folder
        self._cache = folder / "cache"
        self._log = folder / "log"
        for name in ("home", "tmp", "cwd"):
            (folder / name).mkdir()
        self._before = self._elsewhere()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-m", "tests.fuzz.server"),
                    *(json.dumps(_FLAGS | {"cache_dir": str(self._cache), **flags}),),
                    *(json.dumps(dict(tuning)),),
                ],
                cwd=folder / "cwd",
                env=environment(
                    HOME=str(folder / "home"),
                    TMPDIR=str(folder / "tmp"),
                    XDG_CACHE_HOME=str(folder / "home"),
                    PYTHONPATH=str(_ROOT),
                    PYTHONDONTWRITEBYTECODE="1",
                    AWS_EC2_METADATA_DISABLED="true",
                    **variables,
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line, self._log.read_text()
        self.port = int(line.partition("http://")[2].partition(",")[0].rpartition(":")[2])

    def memory(self) -> int:
        """Resident, in bytes."""
        return resident(self._process.pid)

    def judge(self, outcome: Outcome) -> None:
        """Stop it, and find what it left: a traceback, a file where none belongs, a wrong blob."""
        if self._process.poll() is not None:
            outcome.find(f"the proxy ended by itself: {self._process.returncode}")
        self.close()
        if self._process.returncode != 0:
            outcome.find(f"the proxy ended with status {self._process.returncode}")
        WATCH.see("processes' stderr", self._log.read_bytes())
        for entry in _ENTRY.split(self._log.read_bytes()):
            if _TROUBLE.search(entry) and not _EXPECTED.search(entry):
                said = entry.decode("utf-8", "replace").rstrip().splitlines()
                outcome.find(f"its log: {said[-1][:200]}", entry)
        for path in sorted(self._elsewhere() - self._before):
            outcome.find(f"it wrote outside of its cache: {path}", path.encode())
        self._look_into_cache(outcome)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _elsewhere(self) -> set[str]:
        """What lies beside the cache."""
        found: set[str] = set()
        for path, folders, files in os.walk(self._folder):
            if path == str(self._folder) and "cache" in folders:
                folders.remove("cache")
            found.update(f"{path}/{name}" for name in (*folders, *files))
        return found - {str(self._log)}

    def _look_into_cache(self, outcome: Outcome) -> None:
        for path, folders, files in os.walk(self._cache):
            for name in (*folders, *files):
                whole = Path(path, name)
                relative = str(whole.relative_to(self._cache))
                if whole.is_symlink():
                    outcome.find(f"a link in the cache: {relative}", relative.encode())
                if name in folders or relative in _OURS:
                    continue
                key = key_at(relative)
                if key is None and not is_leftover(name):
                    outcome.find(f"a file in the cache that is not ours: {relative}")
                elif key is not None and is_blob(key):
                    digest = Digest.parse(f"{whole.parts[-3]}:{name}")
                    if not digest.matches(whole.read_bytes()):
                        outcome.find(f"a blob that does not hash to its name: {digest}")


@contextmanager
def running(
    folder: Path,
    variables: Mapping[str, str] = MappingProxyType({}),
    *,
    tuning: Mapping[str, object] = MappingProxyType({}),
    flags: Mapping[str, object],
) -> Iterator[Proxy]:
    """A proxy with its `cache` in the folder, in an environment of these variables."""
    folder.mkdir(parents=True, exist_ok=True)
    proxy = Proxy(folder, variables, flags, tuning)
    try:
        yield proxy
    finally:
        proxy.close()
