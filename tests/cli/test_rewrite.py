"""`rewrite`: a manifest in, the other form out, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.process import COMMAND, environment, finished

PAIRS = Path(__file__).parent.parent / "vectors" / "pairs"
STATES = sorted({path.name.partition(".index")[0] for path in PAIRS.glob("*.index.json")})


def vector(state: str, form: str) -> bytes:
    return (PAIRS / f"{state}.{form}.json").read_bytes()


def rewrite(form: str, manifest: bytes) -> bytes:
    done = finished(["rewrite", "--to", form], stdin=manifest)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout


@pytest.mark.parametrize("state", STATES)
def test_what_buildkit_wrote_becomes_what_buildkit_writes_in_the_other_form(state: str) -> None:
    assert rewrite("image-manifest", vector(state, "index")) == vector(state, "image-manifest")
    assert rewrite("index", vector(state, "image-manifest")) == vector(state, "index")


def test_a_docker_list_comes_back_byte_for_byte() -> None:
    original = vector(STATES[0], "docker-list")
    assert rewrite("docker-list", rewrite("image-manifest", original)) == original


def test_there_are_vectors() -> None:
    assert len(STATES) == 4


@pytest.mark.parametrize("form", ["image-manifest", "index", "docker-list"])
@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"\xff\x00",
        b'{"schemaVersion":2,"manifests":[]}',
        b" " * (4 * 1024 * 1024 + 1),
    ],
    ids=["empty", "object", "bytes", "index", "too-long"],
)
def test_what_is_no_cache_gives_one_line_and_no_output(form: str, manifest: bytes) -> None:
    done = finished(["rewrite", "--to", form], stdin=manifest)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"ecr-cache-proxy: ")
    assert done.stderr.count(b"\n") == 1


def test_a_full_disk_is_no_traceback() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "rewrite", "--to", "index"],
            env=environment(),
            input=vector(STATES[0], "index"),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"ecr-cache-proxy: cannot write the output: No space left on device\n"
