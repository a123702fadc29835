"""The servers that are measured, each in processes of its own, ended with their context."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench.wire import Server

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 30.0


class Upstream:
    """The stand-in."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.server = Server(told["url"], (told["username"], told["password"]))
        self._told = told

    def control(self, method: str, path: str, value: object = None) -> Any:
        """Use the stand-in's controls, those of `proxy.standin.control`."""
        body = None if value is None else json.dumps(value).encode()
        url = f"{self.server.url}/_standin/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method)) as reply:
            return json.loads(reply.read())

    def configure(self, file: Path) -> dict[str, str]:
        """Write the proxy's configuration for it; the environment to run the proxy in."""
        host, url = self._told["host"], self._told["url"]
        file.write_text(
            f'[[registry]]\nhost = "{host}"\nendpoint = "{url}"\napi-endpoint = "{url}"\n'
        )
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "AWS_ACCESS_KEY_ID": self._told["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self._told["secret_access_key"],
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Proxy:
    """`ecr-cache-proxy serve` with its defaults."""

    def __init__(self, server: Server, pid: int, start_seconds: float) -> None:
        self.server = server
        self.start_seconds = start_seconds
        self._proc = Path(f"/proc/{pid}")

    def forget_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")  # resets VmHWM, proc(5)

    def peak_mb(self) -> float:
        """The most memory that was resident since `forget_peak`, in MB."""
        return self._memory("VmHWM") / 1e6

    def resident(self) -> int:
        """The memory that is resident now, in bytes."""
        return self._memory("VmRSS")

    def is_counting(self) -> bool:
        """Whether what was on disk is not all counted yet."""
        with urllib.request.urlopen(f"{self.server.url}/metrics") as reply:
            return b"ecr_cache_proxy_cache_scanning 1.0" in reply.read()

    def _memory(self, kind: str) -> int:
        for line in (self._proc / "status").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {kind} in /proc")


@contextmanager
def upstream(folder: Path, **changes: object) -> Iterator[Upstream]:
    """With `changes` of the settings that tests.bench.upstream gives it."""
    command = [sys.executable, "-m", "tests.bench.upstream", str(folder), json.dumps(changes)]
    with _process(command, folder.with_suffix(".log")) as process:
        yield Upstream(json.loads(_first_line(process)))


@contextmanager
def proxy(folder: Path, of: Upstream) -> Iterator[Proxy]:
    folder.mkdir(exist_ok=True)
    environment = of.configure(folder / "proxy.toml")
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(folder / "proxy.toml")]
    command += ["--listen", "127.0.0.1:0", "--cache-dir", str(folder / "cache")]
    start = time.perf_counter()
    with _process(command, folder / "proxy.log", environment) as process:
        line = _first_line(process)
        seconds = time.perf_counter() - start
        address = line.partition("http://")[2].split(",")[0].strip()
        yield Proxy(Server(f"http://{address}"), process.pid, seconds)


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[Server, Path] | None]:
    """nginx on files: where it is, and the folder that it serves; None if it is not installed."""
    program = _find("nginx")
    if program is None:
        yield None
        return
    files = folder / "files"
    files.mkdir(parents=True)
    port = _free_port()
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As Debian configures it: sendfile and tcp_nopush, a worker for each processor, an access log.
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes auto; pid {folder}/pid; error_log stderr;\n"
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        "events { worker_connections 768; }\n"
        f"http {{ sendfile on; tcp_nopush on; access_log {folder}/access.log;\n{temporary}"
        "keepalive_requests 100000000; default_type application/octet-stream;\n"
        f"server {{ listen 127.0.0.1:{port}; root {files}; }} }}\n"
    )
    command = [program, "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with _process(command, folder / "nginx.log", speaks=False):
        _await_port(port)
        yield Server(f"http://127.0.0.1:{port}"), files


@contextmanager
def docker_registry(folder: Path) -> Iterator[Server | None]:
    """Distribution's registry with its files in a folder; None if it is not installed."""
    program = _find("docker-registry")
    if program is None:
        yield None
        return
    folder.mkdir()
    port = _free_port()
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, "
        "cache: {blobdescriptor: inmemory}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    command = [program, "serve", str(folder / "config.yml")]
    with _process(command, folder / "registry.log", speaks=False):
        _await_port(port)
        yield Server(f"http://127.0.0.1:{port}")


def _find(program: str) -> str | None:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        print(f"(without {program}: it is not installed; Debian's package is called so)")
    return path


@contextmanager
def _process(
    command: list[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    speaks: bool = True,
) -> Iterator[subprocess.Popen[str]]:
    """A process with its errors in a file; where nobody reads what it says, that goes there too."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE if speaks else errors,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"{process.args!r} ended before it was ready")
    return line


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
