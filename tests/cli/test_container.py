"""The proxy as a container runs it: no root, no capability, nothing writable but its cache.

For real, in a mount namespace of its own in which every file system is read-only; on a machine
that lets nobody make one, there is nothing to be tried.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.httpsession import get_cert_path

from proxy.oci import Digest
from proxy.standin import StandIn, StandInSettings
from tests.cli.process import COMMAND, PATIENCE, Lines, environment
from tests.cli.test_running import credentials, push_image
from tests.running import Client, straight_to

USER = 65532  # the Dockerfile's
ROOT = Path(__file__).parent.parent.parent


def _can_be_tried() -> bool:
    """Whether there is root, and namespaces, and the user of the container can read the program."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    program = [sys.executable, "-c", f"open({str(ROOT / 'proxy/app.py')!r})"]
    tried = subprocess.run(
        ["unshare", "--mount", *as_user, *program], capture_output=True, check=False, cwd="/"
    )
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(
    not _can_be_tried(), reason="takes root, and namespaces, as a container's runtime does"
)

# Everything is mounted read-only, then the cache alone is made writable again.
_CONFINE = """
set -eu
mount --make-rprivate /
mount --bind {cache} {cache}
findmnt --noheadings --raw --output TARGET | while read -r target; do
    mount -o remount,bind,ro "$(printf %b "$target")" 2>/dev/null || true
done
mount -o remount,bind,rw {cache}
exec setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs \\
    --bounding-set=-all --inh-caps=-all --ambient-caps=-all {command}
"""


@contextmanager
def confined(
    command: list[str], cache: Path, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], Lines, Lines]]:
    script = _CONFINE.format(cache=shlex.quote(str(cache)), user=USER, command=shlex.join(command))
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        env=environment(HOME="/nonexistent", PYTHONDONTWRITEBYTECODE="1", **variables),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = Lines(process.stdout), Lines(process.stderr)
    try:
        yield process, output, errors
    finally:
        process.kill()
        process.wait()
        output.close()
        errors.close()


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=("app",))) as standin:
        yield standin


@pytest.fixture
def cache() -> Iterator[Path]:
    """A directory that this user owns, in a place that it can reach."""
    base = Path("/var/tmp")
    made = Path(subprocess.check_output(["mktemp", "-d", "-p", base], text=True).strip())
    made.chmod(0o755)
    (made / "cache").mkdir(mode=0o755)
    os.chown(made / "cache", USER, USER)
    yield made / "cache"
    shutil.rmtree(made)


def check_confined(process: int, cache: Path) -> None:
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(one.split(":\t", 1) for one in status.splitlines() if ":\t" in one)
    assert fields["Uid"].split() == [str(USER)] * 4
    assert fields["NoNewPrivs"] == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[kind], 16) == 0, kind
    mounts = Path(f"/proc/{process}/mounts").read_text().splitlines()
    options = {words[1]: words[3].split(",") for words in map(str.split, mounts)}
    assert "rw" in options[str(cache)]
    assert "ro" in options["/"]
    assert "ro" in options.get("/tmp", options["/"])


def check_private(cache: Path) -> None:
    for path in (cache, *cache.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_uid == USER, path


async def test_it_serves_without_root_capabilities_or_a_writable_disk(
    standin: StandIn, cache: Path
) -> None:
    layer = b"a layer" * 1000
    async with straight_to(standin) as client:
        await push_image(client, layer=layer)
    variables = credentials(standin) | {
        "ECR_CACHE_PROXY_CACHE_DIR": str(cache),
        "ECR_CACHE_PROXY_LISTEN": "127.0.0.1:0",
        "ECR_CACHE_PROXY_CONFIG": str(cache.parent / "settings.toml"),
        "ECR_CACHE_PROXY_CA_BUNDLE": str(cache.parent / "ca.pem"),
        "PYTHONPATH": str(ROOT),
    }
    (cache.parent / "settings.toml").write_text(
        f'[[registry]]\nhost = "{standin.host}"\n'
        f'endpoint = "{standin.url}"\napi-endpoint = "{standin.url}"\n'
    )
    shutil.copy(get_cert_path(verify=True), cache.parent / "ca.pem")
    with confined([*COMMAND, "serve"], cache, **variables) as (process, output, errors):
        line = await asyncio.to_thread(output.wait_for, "listening")
        check_confined(process.pid, cache)
        client = Client(line.split(" listening on ")[1].split(",")[0])
        for path in ("/livez", "/readyz"):
            assert (await client.ask("GET", path)).status == 200
        digest = Digest.of(layer)
        for _ in range(2):
            assert (await client.ask("GET", f"/v2/app/blobs/{digest}")).body == layer
        await push_image(client, layer=b"another layer")
        await client.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        told = await asyncio.to_thread(errors.rest)
    assert not [line for line in told if " WARNING " in line or "Traceback" in line]
    assert (cache / "blobs" / "sha256" / digest.hex[:2] / digest.hex).read_bytes() == layer
    check_private(cache)
