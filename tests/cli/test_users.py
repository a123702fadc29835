"""`token` and `htpasswd`: what they print and write, and what `serve` makes of it."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import bcrypt
import pytest

from proxy.access.htpasswd import parse_htpasswd
from proxy.access.tokens import parse_token_file, token_line
from tests.cli.process import COMMAND, PATIENCE, environment, finished


def test_a_token_comes_on_the_first_line_and_its_line_on_the_second() -> None:
    done = finished(["token", "ci"])
    assert done.returncode == 0
    token, line = done.stdout.decode().splitlines()
    assert line == token_line("ci", token)
    assert b"shown this once" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_with_a_file_the_token_alone_is_printed_and_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# of the team")  # without an end to its line
    path.chmod(0o640)
    tokens = {}
    for user in ("ci", "ci", "robot"):
        done = finished(["token", user, "--file", str(path)])
        assert done.returncode == 0, done.stderr
        (token,) = done.stdout.decode().splitlines()
        tokens[token] = user
        assert token.encode() not in done.stderr
    text = path.read_text()
    assert text.startswith("# of the team\n")
    assert sorted(parse_token_file(text, "").values()) == sorted(tokens.values())
    assert not any(token in text for token in tokens)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("command", ["token", "htpasswd"])
def test_a_file_that_is_made_is_its_owners_alone(command: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    assert finished([command, "ci", "--file", str(path)], stdin=b"password\n").returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tokens_that_are_made_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    running = [
        subprocess.Popen(
            [*COMMAND, "token", f"user{n}", "--file", str(path)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(5)
    ]
    assert [process.wait(PATIENCE) for process in running] == [0] * 5
    assert len(parse_token_file(path.read_text(), "")) == 5


def test_a_password_on_stdin_makes_a_line() -> None:
    done = finished(["htpasswd", "alice"], stdin="pässword\r\nmore\n".encode())
    assert done.returncode == 0
    users = parse_htpasswd(done.stdout.decode(), "")
    assert list(users.hashes) == ["alice"]
    assert bcrypt.checkpw("pässword".encode(), users.hashes["alice"])


def test_a_new_password_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path, link = tmp_path / "real", tmp_path / "htpasswd"
    link.symlink_to(path)
    for user in ("alice", "bob", "alice"):
        assert finished(["htpasswd", user, "--file", str(link)], stdin=b"secret\n").returncode == 0
        if user == "alice":
            path.chmod(0o640)
    before = path.read_text()
    assert list(parse_htpasswd(before, "").hashes) == ["alice", "bob"]
    path.write_text(f"# ours\n{before}")
    assert finished(["htpasswd", "bob", "--file", str(link)], stdin=b"other\n").returncode == 0
    after = path.read_text()
    assert after.splitlines()[:2] == ["# ours", before.splitlines()[0]]
    assert after.splitlines()[2] != before.splitlines()[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["htpasswd", "real"]


def test_at_a_terminal_the_password_is_asked_for_twice_and_not_shown() -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "htpasswd", "alice"],
        env=environment(),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    for prompt in (b"Password: ", b"Repeat for confirmation: "):
        while prompt not in shown:
            shown += os.read(controller, 1024)
        os.write(controller, b"wonderland\n")
    output, _ = process.communicate(timeout=PATIENCE)
    with suppress(OSError):  # the terminal is gone, once all is read
        while True:
            shown += os.read(controller, 1024)
    os.close(controller)
    assert process.returncode == 0
    assert list(parse_htpasswd(output.decode(), "").hashes) == ["alice"]
    assert b"wonderland" not in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["token", "a:b"], b"", "a user's name has no colon"),
        (["token", ""], b"", "a user's name is not empty"),
        (["token", "ci", "--file", "/nowhere/tokens"], b"", "cannot use /nowhere/tokens"),
        (["token", "ci", "--file", "/proc/tokens"], b"", "cannot write /proc/tokens"),
        (["htpasswd", "#a"], b"x\n", "a user's name is not empty"),
        (["htpasswd", "a"], b"", "the password is empty"),
        (["htpasswd", "a"], b"x" * 73, "bcrypt looks at 72 bytes"),
        (["htpasswd", "a"], b"\xff", "no UTF-8"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: list[str], stdin: bytes, told: str
) -> None:
    done = finished(arguments, stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"ecr-cache-proxy: ")
    assert told in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["token", "htpasswd"])
def test_nothing_is_added_to_a_file_that_is_broken(command: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("alice:{SHA}x\n")
    done = finished([command, "ci", "--file", str(path)], stdin=b"password\n")
    assert done.returncode == 2
    assert f"{path}, line 1: " in done.stderr.decode()
    assert path.read_text() == "alice:{SHA}x\n"
