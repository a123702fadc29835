"""State in memory leaves nothing behind; state in a directory is there at the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.oci import Digest
from proxy.standin import StandIn, StandInSettings
from tests.standin.client import CONFIG, REPOSITORY
from tests.standin.conftest import Running


async def test_a_directory_is_read_again_at_the_next_start(
    running: Running, tmp_path: Path
) -> None:
    async with running(directory=tmp_path, repositories=(REPOSITORY,)) as client:
        content = await client.push_image(b"layer", tag="kept")
        password = client.standin.password
        client.standin.state.put_manifest("any/thing", b"no manifest", "text/plain", "odd")
        client.standin.state.create_repository(
            "team/empty", kms_key="alias/build", scan_on_push=True, resource_tags={"team": "build"}
        )
    async with running(directory=tmp_path, repositories=(REPOSITORY,)) as client:
        assert client.standin.state.tokens.check(password)
        answer = await client.ask("GET", f"/v2/{REPOSITORY}/manifests/kept")
        assert answer.body == content
        url = await client.blob_url(Digest.of(b"layer"))
        assert (await client.ask("GET", url, anonymous=True)).body == b"layer"
        assert (await client.ask("GET", "/v2/any/thing/manifests/odd")).body == b"no manifest"
        assert (await client.ask("GET", "/v2/team/empty/tags/list")).status == 200
        empty = client.standin.state.repository("team/empty")
        assert (empty.kms_key, empty.scan_on_push) == ("alias/build", True)
        assert empty.resource_tags == {"team": "build"}


async def test_a_blob_whose_bytes_are_gone_is_not_there_at_the_next_start(
    running: Running, tmp_path: Path
) -> None:
    async with running(directory=tmp_path) as client:
        await client.push_image(b"layer")
    (tmp_path / "blobs" / Digest.of(b"layer").hex).unlink()
    async with running(directory=tmp_path) as client:
        path = f"/v2/{REPOSITORY}/blobs/"
        assert (await client.ask("HEAD", path + Digest.of(b"layer"))).status == 404
        assert (await client.ask("HEAD", path + Digest.of(CONFIG))).status == 200


async def test_an_upload_that_was_not_finished_leaves_nothing(
    running: Running, tmp_path: Path
) -> None:
    async with running(directory=tmp_path) as client:
        location = await client.start()
        await client.ask("PATCH", location, body=b"some bytes")
    assert not (tmp_path / "uploads").exists()


async def test_state_in_memory_leaves_no_files() -> None:
    async with StandIn() as standin:
        standin.state.put_blob(REPOSITORY, b"layer")
        directory = standin.state.files.directory
        assert list(directory.rglob(Digest.of(b"layer").hex))
    assert not directory.exists()


async def test_a_file_is_moved_in_as_a_blob(tmp_path: Path) -> None:
    file = tmp_path / "layer"
    file.write_bytes(b"layer")
    async with StandIn(StandInSettings(directory=tmp_path / "state")) as standin:
        assert standin.state.put_blob(REPOSITORY, file) == Digest.of(b"layer")
        assert not file.exists()


async def test_a_port_that_is_taken_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    async with StandIn() as first:
        port = int(first.url.rpartition(":")[2])
        for second in (StandIn(port=port), StandIn(s3_port=first.s3_port)):
            with pytest.raises(OSError, match="address already in use"):
                await second.start()
            assert not second.state.files.directory.exists()


async def test_a_fixed_port_is_used() -> None:
    async with StandIn() as first:
        port, s3_port = int(first.url.rpartition(":")[2]), first.s3_port
    async with StandIn(port=port, s3_port=s3_port) as again:
        assert again.url == f"http://127.0.0.1:{port}"
        assert again.s3_port == s3_port
