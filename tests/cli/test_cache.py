"""`cache`, through a running proxy and without one: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.cache.layout import Layout, Lock
from proxy.cli import main
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import StandIn, StandInSettings
from proxy.unix_socket import short_path
from tests.caches import Cache
from tests.cli.process import COMMAND, PATIENCE, Program, environment, finished, started
from tests.filled import damage, file_of, fill
from tests.running import Client

MIB = 1024 * 1024
BLOBS = (os.urandom(3 * MIB), b"small", os.urandom(MIB))
DIGESTS = [Digest.of(blob) for blob in BLOBS]
SIZES = [len(blob) for blob in BLOBS]
# More than an address of a socket holds.
DEEP = "d" * 150
ABSENT = Digest.of(b"absent")


@dataclass(frozen=True, slots=True)
class Run:
    status: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Caches:
    """A directory with blobs in it, and the proxy that runs on it, if one does."""

    directory: Path
    proxy: Program | None

    def run(self, *arguments: str, **variables: str) -> Run:
        given = {"ECR_CACHE_PROXY_CACHE_DIR": str(self.directory)} | variables
        done = finished(["cache", *arguments], stdin=b"", **given)
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    def listed(self) -> list[str]:
        return [line.split()[0] for line in self.run("ls").output.splitlines()]


def serving(directory: Path, registry: str = "http://127.0.0.1:9") -> list[str]:
    """`serve` on a free port, with no background verify."""
    where = ["--cache-dir", str(directory), "--listen", "127.0.0.1:0", "--verify-rate", "0"]
    return ["serve", "--registry", registry, *where]


@pytest.fixture(params=["running", "stopped"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Caches]:
    directory = tmp_path / DEEP / "cache"
    assert await fill(directory, *BLOBS) == DIGESTS
    if request.param == "stopped":
        yield Caches(directory, None)
        return
    with started(serving(directory)) as proxy:
        await asyncio.to_thread(proxy.output.wait_for, "listening")
        yield Caches(directory, proxy)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0


def test_ls_gives_digests_with_sizes_in_bytes_for_programs(cache: Caches) -> None:
    listed = cache.run("ls")
    assert (listed.status, listed.errors) == (0, "")
    lines = [f"{digest}  {size}" for digest, size in zip(DIGESTS, SIZES, strict=True)]
    assert sorted(listed.output.splitlines()) == sorted(lines)
    objects = [json.loads(line) for line in cache.run("ls", "--json").output.splitlines()]
    assert [blob["digest"] for blob in objects] == [
        line.split()[0] for line in listed.output.splitlines()
    ]
    assert all(blob["disk"] >= blob["size"] > 0 for blob in objects)


def test_stats_are_for_people_and_for_programs(cache: Caches) -> None:
    told = cache.run("stats", ECR_CACHE_PROXY_CACHE_SIZE="20GiB")
    assert told.status == 0
    rows = dict(re.split(r":\s+", line, maxsplit=1) for line in told.output.splitlines())
    assert rows["size"] == "20.0 GiB"
    assert rows["blobs"] == "3 (4.0 MiB)"
    assert rows["state"] == "ok"
    (line,) = cache.run("stats", "--json").output.splitlines()
    usage = json.loads(line)
    assert (usage["blobs"], usage["blob_bytes"]) == (3, sum(SIZES))
    assert 0 < usage["floor"] < usage["free"]


def test_a_verify_of_what_is_right_succeeds(cache: Caches) -> None:
    verified = cache.run("verify")
    assert (verified.status, verified.errors) == (0, "")
    assert verified.output.splitlines()[-1] == "3 blobs, 4.0 MiB verified, 0 damaged"


def test_a_verify_names_what_is_damaged_quarantines_it_and_fails(cache: Caches) -> None:
    damage(cache.directory, DIGESTS[0])
    verified = cache.run("verify", "--rate", "1GiB")
    assert verified.status == 1
    first, *_, last = verified.output.splitlines()
    assert re.fullmatch(rf"{DIGESTS[0]}  damaged: .+; quarantined", first)
    assert last == "3 blobs, 4.0 MiB verified, 1 damaged"
    assert not file_of(cache.directory, DIGESTS[0]).exists()
    assert sorted(cache.listed()) == sorted(DIGESTS[1:])
    again = cache.run("verify")
    assert again.status == 0
    assert again.output.splitlines()[-1] == "2 blobs, 1.0 MiB verified, 0 damaged"


def test_a_verify_says_what_is_not_ours_and_leaves_it(cache: Caches) -> None:
    strange = cache.directory / os.fsdecode(b"bad\xff\nname")
    strange.write_bytes(b"x")
    verified = cache.run("verify")
    assert verified.status == 0
    line = r"1 files or folders are not ours: 'bad\udcff\nname' among them"
    assert line in verified.output.splitlines()
    assert strange.exists()


def test_rm_removes_what_is_there_and_names_what_is_not(cache: Caches) -> None:
    removed = cache.run("rm", DIGESTS[0], ABSENT, DIGESTS[2])
    assert removed == Run(1, "", f"ecr-cache-proxy: {ABSENT} is not in the cache\n")
    assert cache.listed() == DIGESTS[1:2]
    assert cache.run("rm", DIGESTS[1]) == Run(0, "", "")
    assert cache.listed() == []


def test_prune_evicts_what_ls_lists_first_and_says_how_much(cache: Caches) -> None:
    listed = cache.listed()
    pruned = cache.run("prune", "--to", "3.5MiB")
    assert (pruned.status, pruned.errors) == (0, "")
    assert re.fullmatch(r"\d\.\d MiB freed, \d\.\d MiB used\n", pruned.output)
    left = cache.listed()
    assert left == listed[len(listed) - len(left) :]
    assert 0 < len(left) < 3
    assert cache.run("prune", "--to", "0").status == 0
    assert cache.listed() == []


def test_nothing_is_removed_when_one_of_the_digests_is_none(cache: Caches) -> None:
    refused = cache.run("rm", DIGESTS[1], "sha256:1")
    assert refused.status == 2
    assert refused.errors.startswith("ecr-cache-proxy: 'sha256:1' is no digest")
    assert len(cache.listed()) == 3


def test_a_reader_that_has_enough_ends_it_quietly(cache: Caches) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with closing(os.fdopen(writing, "wb")) as gone:
        done = subprocess.run(
            [*COMMAND, "cache", "ls", "--cache-dir", str(cache.directory)],
            env=environment(),
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command whose stderr is a terminal, and the other end of that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "cache", *arguments],
        env=environment(TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def read_until(terminal: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 1024)


def test_long_work_shows_a_bar_on_a_terminal_and_the_output_has_none_of_it(cache: Caches) -> None:
    damage(cache.directory, DIGESTS[2])
    with on_a_terminal("verify", "--cache-dir", str(cache.directory)) as (process, terminal):
        read_until(terminal, b"100%  4.0 MiB of 4.0 MiB")
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
    first, *_, last = output.decode().splitlines()
    assert first.startswith(f"{DIGESTS[2]}  damaged: ")
    assert last == "3 blobs, 4.0 MiB verified, 1 damaged"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_verify_that_is_interrupted_leaves_the_cache_as_it_is(
    cache: Caches, number: signal.Signals
) -> None:
    arguments = ("verify", "--rate", "1", "--cache-dir", str(cache.directory))
    with on_a_terminal(*arguments) as (process, terminal):
        read_until(terminal, b"verify")
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + number
        assert output == b""
    assert len(cache.listed()) == 3


def test_looking_with_other_settings_than_the_proxys_evicts_nothing(cache: Caches) -> None:
    small = {"ECR_CACHE_PROXY_CACHE_SIZE": "1MiB", "ECR_CACHE_PROXY_MIN_FREE": "100%"}
    for arguments in (["ls"], ["stats"], ["verify"], ["rm", ABSENT]):
        cache.run(*arguments, **small)
    assert len(cache.listed()) == 3


def test_the_cache_is_the_one_that_the_settings_file_names(cache: Caches) -> None:
    file = cache.directory.parent / "settings.toml"
    # No registry is needed to find it, and one that is there is left alone.
    file.write_text('cache-dir = "cache"\n[[registry]]\nurl = "http://127.0.0.1:9"\n')
    listed = finished(["cache", "ls", "--config", str(file)])
    assert listed.returncode == 0
    assert listed.stdout.count(b"\n") == 3


@pytest.mark.parametrize("command", [["ls"], ["stats"], ["verify"], ["prune", "--to", "0"]])
@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_where_no_cache_is_none_is_made(
    command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["cache", *command, "--cache-dir", str(tmp_path / name)])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"ecr-cache-proxy: there is no cache in {tmp_path / name}; ")
    assert told.err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


async def test_a_directory_that_a_silent_process_has_is_named_with_it(tmp_path: Path) -> None:
    await fill(tmp_path, *BLOBS)
    lock = Lock.take(Layout(tmp_path))
    refused = finished(["cache", "ls", "--cache-dir", str(tmp_path)])
    lock.release()
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert f"{tmp_path} is in use by process {os.getpid()}" in refused.stderr.decode()
    assert refused.stderr.count(b"\n") == 1


def test_a_process_that_takes_no_command_is_not_waited_for_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.upkeep._PATIENCE", 0.05)
    asyncio.run(fill(tmp_path, *BLOBS))
    lock = Lock.take(Layout(tmp_path))
    with socket.socket(socket.AF_UNIX) as deaf, short_path(f"{tmp_path}/control.sock") as path:
        deaf.bind(path)
        deaf.listen()
        with pytest.raises(SystemExit) as ended:
            main(["cache", "ls", "--cache-dir", str(tmp_path)])
    lock.release()
    assert ended.value.code == 2
    assert f"{tmp_path} is in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_root_leaves_the_cache_of_another_user_alone(tmp_path: Path) -> None:
    await fill(tmp_path, *BLOBS)
    os.chown(tmp_path / "lock", 12345, 12345)
    refused = finished(["cache", "ls", "--cache-dir", str(tmp_path)])
    assert refused.returncode == 2
    assert b"belongs to user 12345" in refused.stderr
    assert refused.stderr.count(b"\n") == 1


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=("app",))) as standin:
        yield standin


@pytest.fixture
async def pulling(standin: StandIn, tmp_path: Path) -> AsyncIterator[tuple[Caches, Client]]:
    """A proxy in front of a registry, and a client of it."""
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'listen = "127.0.0.1:0"\ncache-dir = "cache"\nverify-rate = "0"\n'
        f'[[registry]]\nhost = "{standin.host}"\n'
        f'endpoint = "{standin.url}"\napi-endpoint = "{standin.url}"\n'
    )
    credentials = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": standin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": standin.secret_access_key,
    }
    with started(["serve", "--config", str(settings)], **credentials) as proxy:
        line = await asyncio.to_thread(proxy.output.wait_for, "listening")
        client = Client(line.partition(" on ")[2].partition(",")[0], watched=True)
        yield Caches(tmp_path / "cache", proxy), client
        await client.close()


async def push(client: Client, blob: bytes) -> str:
    """An image with that blob, which is on the proxy's disk then; gives the path of the blob."""
    cache = Cache.of(blob)
    await cache.push_blobs(client, "app")
    pushed = await client.push_manifest("app", "1", cache.image_manifest, OCI_MANIFEST)
    assert pushed.status == 201
    return f"/v2/app/blobs/{Digest.of(blob)}"


def downloads(standin: StandIn) -> int:
    return sum(r.server == "s3" and r.method == "GET" for r in standin.requests)


async def test_a_quarantined_blob_is_fetched_again_when_it_is_asked_for(
    standin: StandIn, pulling: tuple[Caches, Client]
) -> None:
    cache, client = pulling
    path = await push(client, BLOBS[0])
    damage(cache.directory, DIGESTS[0])
    # Until a verify finds it, damage inside is served.
    assert (await client.ask("GET", path)).body != BLOBS[0]
    assert downloads(standin) == 0
    assert (await asyncio.to_thread(cache.run, "verify")).status == 1
    assert (await client.ask("GET", path)).body == BLOBS[0]
    assert downloads(standin) == 1


async def test_prune_leaves_what_is_being_read_and_says_so(
    pulling: tuple[Caches, Client],
) -> None:
    cache, client = pulling
    large = os.urandom(64 * MIB)  # more than the buffers between server and client hold
    path = await push(client, large)
    async with client.session.get(client.url_of(path)) as response:
        pruned = await asyncio.to_thread(cache.run, "prune", "--to", "1MiB")
        assert pruned.status == 1
        assert pruned.errors == "ecr-cache-proxy: what is left is in use; try again later\n"
        assert await response.read() == large
    assert (await asyncio.to_thread(cache.run, "prune", "--to", "1MiB")).status == 0
    assert await asyncio.to_thread(cache.listed) == []
