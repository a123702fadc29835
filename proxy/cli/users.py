"""`token` and `htpasswd`: make the files that `serve` knows its clients by."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from proxy.cli.base import PROGRAM, UserError, examples, output_errors

_FILE = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the line there; the file is made, for its owner alone, if it is missing.",
)


@click.command(
    epilog=examples(
        f"{PROGRAM} token ci --file /etc/ecr-cache-proxy/tokens",
        f"{PROGRAM} token ci --file tokens | docker login --username ci --password-stdin HOST:PORT",
    )
)
@click.argument("user")
@_FILE
def token(user: str, path: Path | None) -> None:
    """Make a new token for a user.

    The token is printed once, and kept nowhere: what a token-file has is its hash. A user may have
    several. Without --file the line for the file is printed after the token.
    """
    from proxy.access.tokens import new_token, parse_token_file, token_line

    new = new_token()
    try:
        line = token_line(user, new)
    except ValueError as error:
        raise UserError(str(error)) from error
    if path is not None:
        with _locked(path):
            _check(path, parse_token_file)
            _append(path, line)
    with output_errors():
        click.echo(new)
        if path is None:
            click.echo(line)
    if path is None:
        told = "the first line is the token, shown this once; the second is for the token-file"
    else:
        told = f"this is the token, shown this once; its hash is in {path}"
    click.echo(f"{PROGRAM}: {told}", err=True)


@click.command(
    epilog=examples(
        f"{PROGRAM} htpasswd alice --file /etc/ecr-cache-proxy/htpasswd",
        f"{PROGRAM} htpasswd alice --file htpasswd < password.txt",
    )
)
@click.argument("user")
@_FILE
def htpasswd(user: str, path: Path | None) -> None:
    """Set a user's password, as htpasswd -B does.

    It is asked for, or the first line of stdin. In --file the user's line is replaced, or added;
    without it the line is printed.
    """
    from proxy.access.htpasswd import parse_htpasswd, password_line

    try:
        line = password_line(user, _password())
    except ValueError as error:
        raise UserError(str(error)) from error
    if path is None:
        with output_errors():
            click.echo(line)
        return
    with _locked(path):
        _check(path, parse_htpasswd)
        _set(path, user, line)


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt(
            "Password", hide_input=True, confirmation_prompt=True, err=True
        )
        return password
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError("the password on stdin is no UTF-8") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Have the file's folder for oneself, among these commands: they read before they write."""
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"--file: cannot use {path}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise UserError(f"--file: cannot write {path}: {error.strerror}") from error
    finally:
        os.close(folder)


def _check(path: Path, parse: Callable[[str, str], object]) -> None:
    """Nothing is added to a file that the proxy would not take."""
    from proxy.access import AccessError

    try:
        parse(_read(path), str(path))
    except (AccessError, UnicodeDecodeError) as error:
        raise UserError(f"--file: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""


def _append(path: Path, line: str) -> None:
    """Add a line in one write: whoever reads the file has it whole, or not yet."""
    text = _read(path)
    joint = "" if not text or text.endswith("\n") else "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, f"{joint}{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def _set(path: Path, user: str, line: str) -> None:
    """Put the line in the place of the user's old one, or at the end."""
    lines = _read(path).splitlines()
    places = [n for n, old in enumerate(lines) if old.strip().partition(":")[0] == user]
    if not places:
        _append(path, line)
        return
    lines[places[0]] = line
    target = path.resolve()  # a link stays one
    status = target.stat()
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(new, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fchmod(file.fileno(), status.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fsync(file.fileno())
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
