"""Files that are read again when they have changed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from proxy.access import files
from proxy.access.files import WatchedFile, numbered_lines
from proxy.access.identity import AccessError
from tests.access.files import replace


def parse(text: str, source: str) -> list[str]:
    lines = []
    for where, line in numbered_lines(text, source):
        if line == "broken":
            raise AccessError(f"{where}: broken")
        lines.append(line)
    return lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("one\n")
    return path


def age(path: Path) -> None:
    """Let it have been written an hour ago: then its times alone say whether it has changed."""
    then = path.stat().st_mtime - 3600
    os.utime(path, (then, then))


@pytest.fixture(params=["young", "old"])
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default what a test has just written is too young for its times to be trusted."""
    if request.param == "old":
        monkeypatch.setattr(files, "_YOUNG_SECONDS", -1.0)


@pytest.mark.usefixtures("patience")
async def test_a_file_that_is_replaced_is_read_again(path: Path) -> None:
    file = WatchedFile(path, parse)
    assert file.value == ["one"]
    replace(path, "two")
    await file.refresh()
    assert file.value == ["two"]


async def test_a_file_that_is_written_over_is_read_again(path: Path) -> None:
    file = WatchedFile(path, parse)
    with path.open("r+") as opened:  # of the same size, and within the same tick of the clock
        opened.write("two")
    await file.refresh()
    assert file.value == ["two"]


async def test_a_change_that_keeps_the_old_time_is_seen(path: Path) -> None:
    age(path)
    file = WatchedFile(path, parse)
    with path.open("r+") as opened:
        opened.write("two")
    age(path)
    await file.refresh()
    assert file.value == ["two"]


async def test_a_file_is_trusted_by_its_times_once_it_is_some_seconds_old(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = 0

    def count(text: str, source: str) -> list[str]:
        nonlocal readings
        readings += 1
        return parse(text, source)

    file = WatchedFile(path, count)
    await file.refresh()
    assert readings == 2, "it may have changed within one tick of the clock"
    monkeypatch.setattr(files, "_YOUNG_SECONDS", -1.0)
    for _ in range(3):
        await file.refresh()
    assert readings == 3


@pytest.mark.usefixtures("patience")
async def test_a_link_that_is_turned_is_followed(tmp_path: Path) -> None:
    """So Kubernetes changes a mounted secret: `..data` points to another folder."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "users").write_text(name)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "users").symlink_to("..data/users")
    file = WatchedFile(tmp_path / "users", parse)
    assert file.value == ["one"]
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", tmp_path / "..data")
    await file.refresh()
    assert file.value == ["two"]


def spoil(path: Path, trouble: str) -> str:
    """Make the file useless; what is said of it."""
    if trouble == "broken":
        replace(path, "two\nbroken\n")
        return f"{path}, line 2: broken"
    if trouble == "binary":
        path.write_bytes(b"two\n\xff\n")
        return f"{path}, line 2: this is no UTF-8"
    if trouble == "everybody's":
        path.write_bytes(b"two\n")
        path.chmod(0o666)
        return (
            f"{path}: every user of this machine may write to it (mode 666), and who does decides "
            f"what the proxy lets in; chmod o-w {path}"
        )
    path.unlink()
    return f"cannot read {path}: No such file or directory"


@pytest.mark.parametrize("trouble", ["broken", "binary", "everybody's", "gone"])
async def test_a_new_file_that_cannot_be_used_keeps_the_old_one_and_is_told_once(
    path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = WatchedFile(path, parse)
    told = spoil(path, trouble)
    for _ in range(3):
        await file.refresh()
        assert file.value == ["one"]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"what {path} said before goes on: {told}"
    replace(path, "three")
    await file.refresh()
    await file.refresh()
    assert file.value == ["three"]
    assert [r.getMessage() for r in caplog.records[1:]] == [
        f"{path} has changed, and was read again"
    ]


@pytest.mark.parametrize("content", [b"broken", b"\xff", None])
def test_at_the_start_the_file_must_be_right(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AccessError, match=r"line 1: |cannot read"):
        WatchedFile(path, parse)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"cannot read .*: Is a directory"):
        WatchedFile(tmp_path, parse)
