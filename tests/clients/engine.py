"""A throw-away Docker Engine with BuildKit: daemons of its own, state of its own, nothing shared.

Needs root and what `.ci/clients` installs. The Engine knows neither the proxy nor the stand-in: a
registry is an address to it, as it is to any user.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from .build import BuildResult
from .command import SYSTEM_PATH, Outcome, find_program, find_static_busybox, run, unpacked_clients

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
POLL_INTERVAL = 0.05

_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
# A program that finds a folder of ours as its /etc/docker, where the daemon looks for certificates.
_OWN_SETTINGS = 'mkdir -p /etc/docker && mount --bind "$0" /etc/docker && exec "$@"'


def missing_for_engine() -> str | None:
    """Why an Engine cannot run here, in words for a skipped test, or None."""
    if os.geteuid() != 0:
        return "a Docker Engine needs root"
    folder = unpacked_clients()
    if not (folder / "usr/sbin/dockerd").exists():
        return f"no Docker Engine in {folder}: run .ci/clients"
    if subprocess.run([*_OWN_MOUNTS, "true"], capture_output=True, check=False).returncode != 0:
        return "a Docker Engine needs a root that may mount, which this container's may not"
    if find_program("runc") is None:
        return "no runc: run .ci/clients"
    if find_static_busybox() is None:
        return "no static busybox for the images: run .ci/clients"
    return None


class Engine:
    """A running Docker Engine. Use it as a context manager: leaving it ends both daemons.

    Invariant: its state lies under `folder`, and the mounts of its daemons in mount namespaces that
    end with them. Only empty folders stay behind elsewhere: those of runc and of plugins in /run,
    whose places are compiled in, and the control groups of the builds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.settings = folder / "etc"
        self._clients = unpacked_clients()
        self._processes: list[subprocess.Popen[bytes]] = []
        # Only what is listed here reaches a daemon or the CLI: a DOCKER_HOST, a BUILDX_BUILDER or
        # an HTTP proxy of whoever runs the tests would send them elsewhere.
        self._env = {
            "PATH": f"{self._clients}/usr/bin:{self._clients}/usr/sbin:{SYSTEM_PATH}",
            "HOME": str(folder),
            "DOCKER_CONFIG": str(self.config),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    # -- the docker command line --

    def shell(self, script: str) -> Outcome:
        """Runs lines as a person pastes them into a terminal, up to the first one that fails."""
        return run(["bash", "-e", "-o", "pipefail", "-c", script], env=self._env)

    def docker(self, *arguments: str | Path, check: bool = True, stdin: str = "") -> Outcome:
        """Runs `docker` with these arguments; raises CommandFailed like `run`."""
        return run(
            [self._clients / "usr/bin/docker", *arguments], env=self._env, check=check, stdin=stdin
        )

    def build(
        self,
        context: Path,
        *,
        cache_to: str | None = None,
        cache_from: str | None = None,
        tag: str | None = None,
        no_cache: bool = False,
    ) -> BuildResult:
        """Builds the Dockerfile in `context`; one that fails is a result too.

        `cache_to` and `cache_from` are what buildx takes: `type=registry,ref=HOST:PORT/REPO:TAG`.
        """
        arguments: list[str | Path] = ["buildx", "build", "--network=none", "--progress=rawjson"]
        if cache_to is not None:
            arguments += ["--cache-to", cache_to]
        if cache_from is not None:
            arguments += ["--cache-from", cache_from]
        if tag is not None:
            arguments += ["--tag", tag]
        if no_cache:
            arguments.append("--no-cache")
        outcome = self.docker(*arguments, context, check=False)
        return BuildResult.from_rawjson(
            returncode=outcome.returncode, output=outcome.log, seconds=outcome.seconds
        )

    def prune(self) -> None:
        """Forgets every image and all of BuildKit's state, as if on a new machine. Logins stay."""
        self.docker("image", "prune", "--all", "--force")
        self.docker("buildx", "prune", "--all", "--force")

    def login(self, registry: str, *, username: str, password: str) -> None:
        """Keeps a login for `registry` (HOST:PORT), which the registry is asked to confirm."""
        self.docker("login", "--username", username, "--password-stdin", registry, stdin=password)

    def logout(self, registry: str) -> None:
        """Forgets the login for `registry`."""
        self.docker("logout", registry)

    def trust(self, registry: str, certificates: Path) -> None:
        """Takes the certificates of a folder (`ca.crt`, `client.cert`, `client.key`) for HOST:PORT.

        As `/etc/docker/certs.d` has them on a machine of its own.
        """
        folder = self.settings / "certs.d" / registry
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(certificates, folder)

    def pull_by_containerd(
        self, image: str, *, certificates: Path, user: str = "", check: bool = True
    ) -> Outcome:
        """`ctr images pull`: containerd's own resolver; `user` is `NAME:PASSWORD`."""
        arguments: list[str | Path] = ["--tlscacert", certificates / "ca.crt"]
        if (certificates / "client.cert").exists():
            arguments += ["--tlscert", certificates / "client.cert"]
            arguments += ["--tlskey", certificates / "client.key"]
        if user:
            arguments += ["--user", user]
        ctr: list[str | Path] = [self._clients / "usr/bin/ctr"]
        ctr += ["--address", self.folder / "containerd.sock", "--namespace", "pulled"]
        pull = [*ctr, "images", "pull", "--local", *arguments, image]
        return run(pull, env=self._env, check=check)

    def push(self, image: str, *, check: bool = True) -> Outcome:
        """`docker push`."""
        return self.docker("push", image, check=check)

    def pull(self, image: str, *, check: bool = True) -> Outcome:
        """`docker pull`."""
        return self.docker("pull", image, check=check)

    def remove_image(self, image: str) -> None:
        """`docker image rm`, whoever else refers to it."""
        self.docker("image", "rm", "--force", image)

    def image_id(self, image: str) -> str:
        """The digest by which the engine knows the image."""
        return self.docker("image", "inspect", "--format", "{{.Id}}", image).log.strip()

    # -- the daemons --

    @property
    def logs(self) -> dict[str, Path]:
        """The daemons' log files, by the daemon's name."""
        return {name: self.folder / f"{name}.log" for name in ("containerd", "dockerd")}

    def _start(self) -> None:
        self.config.mkdir(parents=True)
        self.settings.mkdir()
        _write_json(
            self.config / "config.json",
            {"cliPluginsExtraDirs": [f"{self._clients}/usr/libexec/docker/cli-plugins"]},
        )
        containerd_socket = self.folder / "containerd.sock"
        containerd_config = self.folder / "containerd.toml"
        containerd_config.write_text(
            "version = 2\n"
            f'root = "{self.folder}/containerd/root"\n'
            f'state = "{self.folder}/containerd/state"\n'
            # Kubernetes' interface, which wants a network plugin at start.
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{containerd_socket}"\n'
            # Debian's default plugin folder is the system's.
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self.folder}/containerd/opt"\n'
        )
        _write_json(
            self.folder / "daemon.json",
            {
                "features": {"containerd-snapshotter": True},
                "storage-driver": "overlayfs" if _overlay_works(self.folder) else "native",
                # No packet filter, no bridge, no change to the host's forwarding: builds have no
                # network, and the daemon itself reaches a registry on loopback without any of it.
                "iptables": False,
                "ip6tables": False,
                "bridge": "none",
                "ip-forward": False,
            },
        )
        self._spawn(
            "containerd", "usr/bin/containerd", "--log-level=warn", "--config", containerd_config
        )
        self._wait("containerd", lambda: _accepts(containerd_socket))
        self._spawn(
            "dockerd",
            "usr/sbin/dockerd",
            *("--config-file", self.folder / "daemon.json"),
            *("--containerd", containerd_socket),
            *("--data-root", self.folder / "data"),
            *("--exec-root", self.folder / "exec"),
            *("--pidfile", self.folder / "dockerd.pid"),
            *("--host", self._env["DOCKER_HOST"]),
        )
        self._wait("dockerd", lambda: self.docker("info", check=False).ok)

    def _spawn(self, name: str, program: str, *arguments: str | Path) -> None:
        # In a mount namespace of its own, so that not even a killed daemon leaves a mount behind
        # that keeps the folder from being deleted; and ended by the kernel when the thread that ran
        # the tests is gone. Both programs exec: the process is the daemon's.
        with self.logs[name].open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *_OWN_MOUNTS]
                    + ["sh", "-c", _OWN_SETTINGS, str(self.settings)]
                    + [str(word) for word in (self._clients / program, *arguments)],
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        process = self._processes[-1]
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                state = "does not answer" if process.poll() is None else "has exited"
                raise RuntimeError(f"{name} {state}:\n{self.logs[name].read_text()[-8000:]}")
            time.sleep(POLL_INTERVAL)

    def _stop(self) -> None:
        """Ends the daemons, the last one first, and deletes their state; their logs stay."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        for name in ("data", "exec", "containerd"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2))


def _accepts(path: Path) -> bool:
    """Whether something listens on the Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _overlay_works(folder: Path) -> bool:
    """Whether overlayfs can be mounted in `folder`: not, for example, on another overlay.

    Where it cannot, the daemon would fail at the first build only.
    """
    probe = folder / "probe"
    for name in ("lower", "upper", "work", "merged"):
        (probe / name).mkdir(parents=True)
    options = f"lowerdir={probe}/lower,upperdir={probe}/upper,workdir={probe}/work"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(probe / "merged")]
    tried = subprocess.run([*_OWN_MOUNTS, *mount], capture_output=True, check=False)
    shutil.rmtree(probe)
    return tried.returncode == 0
