"""A cache directory is its user's alone: what others could have put there is not served."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cache import BlobStore, CacheError, RecordStore
from proxy.events import Events, Kind
from proxy.oci import Digest
from tests.cache.conftest import MIB, Cache

FOLDERS = ("blobs", "records", "uploads", "incoming", "quarantine")
WHERE = ("lan", "app")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def _open(directory: Path) -> BlobStore:
    return await BlobStore.open(directory, budget=MIB, events=Events())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_what_is_made_is_this_users_alone_whatever_the_umask(
    mask: int, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache", budget=64 * MIB)
    await cache.open()
    await cache.put(b"blob")
    await (await RecordStore.open(cache.store)).put("alias", *WHERE, "key", b"x")
    spool = await cache.store.create_spool("upload")
    await spool.append(b"x")
    for path in (cache.directory, *cache.directory.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    await spool.close()
    await cache.close()
    for path in (cache.directory, *cache.directory.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("inside", ["", "blobs", "records", "blobs/sha256", "blobs/sha256/ab"])
@pytest.mark.parametrize("bits", [0o720, 0o702, 0o1777])
async def test_a_directory_that_others_can_write_to_is_refused_with_what_to_do(
    tmp_path: Path, inside: str, bits: int
) -> None:
    path = tmp_path / inside
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(bits)
    with pytest.raises(CacheError) as raised:
        await _open(tmp_path)
    told = str(raised.value)
    assert f"others may write to {path} (mode {bits:o})" in told
    assert f"chmod go-w {path}" in told
    assert f"{tmp_path}/cache" in told
    assert "\n" not in told
    assert not (tmp_path / "lock").exists()
    if not inside:
        assert os.listdir(tmp_path) == []  # it may be a folder of other things
    path.chmod(0o700)
    await (await _open(tmp_path)).close()


@pytest.mark.parametrize(("bits", "hinted"), [(0o2770, True), (0o770, False), (0o2702, False)])
async def test_a_volume_that_kubernetes_has_given_to_a_group_is_told_how_to_be_left_alone(
    tmp_path: Path, bits: int, hinted: bool
) -> None:
    os.chmod(tmp_path, bits)
    with pytest.raises(CacheError, match="others may write") as raised:
        await _open(tmp_path)
    assert ("fsGroupChangePolicy: OnRootMismatch" in str(raised.value)) is hinted


async def test_a_directory_inside_one_that_all_can_write_to_is_fine(tmp_path: Path) -> None:
    """As an emptyDir of Kubernetes is, and a tmpfs of Docker."""
    os.chmod(tmp_path, 0o1777)
    await (await _open(tmp_path / "cache")).close()
    assert mode(tmp_path / "cache") == 0o700


@pytest.mark.parametrize("inside", ["", "blobs", "records/alias/ab"])
async def test_what_others_can_read_is_closed_to_them_and_that_is_told(
    cache: Cache, inside: str, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.close()
    path = cache.directory / inside
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o755)
    with caplog.at_level(logging.INFO):
        await cache.open()
    assert mode(path) == 0o700
    assert sum("0700 now" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("inside", ["", "blobs"])
async def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / inside).mkdir(mode=0o700, exist_ok=True)
    there = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: there + 1)
    told = f"belongs to user {there}, and this is user {there + 1}: run this as that user, or"
    with pytest.raises(CacheError, match=told):
        await _open(tmp_path)


@pytest.mark.parametrize("inside", [*FOLDERS, "blobs/sha256", "blobs/sha256/ab", "records/alias"])
async def test_no_link_to_a_folder_is_followed_inside(tmp_path: Path, inside: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    link = tmp_path / "cache" / inside
    link.parent.mkdir(mode=0o700, parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(CacheError, match=f"{link} is a symbolic link"):
        await _open(tmp_path / "cache")
    assert os.listdir(elsewhere) == ["file"]


@pytest.mark.parametrize("name", ["lock", "secret"])
async def test_no_link_to_a_file_is_followed_inside(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"A" * 43 + b"=")
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / name).symlink_to(elsewhere)
    with pytest.raises(CacheError, match="symbolic links"):
        await _open(tmp_path / "cache")
    assert elsewhere.read_bytes() == b"A" * 43 + b"="


async def test_no_link_to_a_blob_or_a_record_is_followed_inside(
    cache: Cache, tmp_path: Path
) -> None:
    digest = await cache.put(b"blob")
    records = await RecordStore.open(cache.store)
    await records.put("manifest", *WHERE, "key", b"x")
    await cache.close()
    for number, path in enumerate(
        [path for path in cache.directory.rglob("*") if len(path.name) == 64]
    ):
        path.symlink_to(path.rename(tmp_path / f"elsewhere-{number}"))
    await cache.open()
    assert not cache.store.contains(digest)
    records = await RecordStore.open(cache.store)
    assert await records.find("manifest", *WHERE, "key") is None


async def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    await (await _open(tmp_path / "link")).close()
    assert (tmp_path / "real" / "blobs").is_dir()


# Records that were not written here


async def test_a_record_of_another_cache_counts_as_damaged(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other", budget=64 * MIB)
    await other.open()
    for at, content in ((cache, b"ours"), (other, b"theirs")):
        await (await RecordStore.open(at.store)).put("alias", *WHERE, "key", content)
    await other.close()
    (ours,), (theirs,) = (
        [path for path in (c.directory / "records").rglob("*") if path.is_file()]
        for c in (cache, other)
    )
    ours.write_bytes(theirs.read_bytes())
    records = await RecordStore.open(cache.store)
    assert await records.all("alias") == []
    assert await records.find("alias", *WHERE, "key") is None
    assert Kind.TROUBLE in cache.kinds()


@pytest.mark.parametrize("kind", ["alias", "debt", "tag"])
async def test_a_record_with_a_checksum_that_anybody_can_make_counts_as_damaged(
    cache: Cache, kind: str
) -> None:
    """As records were before they were authenticated."""
    records = await RecordStore.open(cache.store)
    await records.put(kind, *WHERE, "key", b"content")
    (path,) = (path for path in (cache.directory / "records").rglob("*") if path.is_file())
    body = path.read_bytes().partition(b"\n")[2]
    path.write_bytes(Digest.of(body).hex.encode() + b"\n" + body)
    fresh = await RecordStore.open(cache.store)
    assert await fresh.all(kind) == []
    assert await fresh.find(kind, *WHERE, "key") is None
