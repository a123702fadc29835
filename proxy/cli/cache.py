"""`cache`: what lies in the cache directory, shown, verified, removed; the proxy may be running."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from proxy.cli.base import (
    PROGRAM,
    UserError,
    examples,
    log_to_stderr,
    output_errors,
    private_files,
)
from proxy.config import CacheSettings, SettingsError, load_cache_settings
from proxy.oci import Digest
from proxy.sizes import format_size, parse_share, parse_size

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

_DAMAGED: Final = 1

_Command: TypeAlias = Callable[..., Any]


def _of_a_cache(command: _Command) -> _Command:
    """The options that say which cache it is."""
    for option in (
        click.option("--config", metavar="FILE", help="Settings file (TOML) of the proxy."),
        click.option(
            "--cache-dir",
            metavar="DIR",
            help="Where the cache is kept. [default: as for serve]",
        ),
    ):
        command = option(command)
    return command


@click.group(
    epilog=examples(
        f"{PROGRAM} cache stats",
        f"{PROGRAM} cache verify --cache-dir /var/cache/ecr",
        f"{PROGRAM} cache prune --to 10GiB",
    )
)
def cache() -> None:
    """Look at the cache, verify it, and remove from it.

    Works while the proxy runs, which then does it, and when it does not. The cache is the one
    that serve uses with the same options, environment and settings file.
    """


@cache.command(epilog=examples(f"{PROGRAM} cache ls", f"{PROGRAM} cache ls --json | jq .digest"))
@_of_a_cache
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, sizes in bytes.")
def ls(as_json: bool, **flags: object) -> None:
    """List the blobs, the next one to be evicted first.

    One line each: digest and size; for people on a terminal, in bytes for programs.
    """
    told_size = format_size if sys.stdout.isatty() else str

    def line(blob: Mapping[str, Any]) -> str:
        return json.dumps(blob) if as_json else f"{blob['digest']}  {told_size(blob['size'])}"

    def take(message: Mapping[str, Any]) -> None:
        _say("\n".join(line(blob) for blob in message["blobs"]))

    _perform(flags, "ls", {}, take)


@cache.command(epilog=examples(f"{PROGRAM} cache stats", f"{PROGRAM} cache stats --json"))
@_of_a_cache
@click.option("--json", "as_json", is_flag=True, help="One JSON object, sizes in bytes.")
def stats(as_json: bool, **flags: object) -> None:
    """Show how full the cache is, as the file system counts it."""

    def take(message: Mapping[str, Any]) -> None:
        usage = message["usage"]
        _say(json.dumps(usage) if as_json else _describe_usage(usage))

    _perform(flags, "stats", {}, take)


@cache.command(epilog=examples(f"{PROGRAM} cache verify", f"{PROGRAM} cache verify --rate 50MiB"))
@_of_a_cache
@click.option(
    "--rate",
    metavar="SIZE",
    default="0",
    help="Read no more than this each second; 0: as fast as it goes. [default: 0]",
)
def verify(rate: str, **flags: object) -> int:
    """Read and hash all blobs, and count what the directory holds.

    A damaged blob is quarantined, named, and fetched again when it is next asked for. The exit
    code is 1 when something was damaged or missing.
    """
    report = _Report()
    try:
        with _Progress("verify") as progress:

            def take(message: Mapping[str, Any]) -> None:
                if not progress.take(message):
                    report.take(message, at_once=not progress.is_shown)

            _perform(flags, "verify", {"rate": _size(rate, "--rate")}, take)
    finally:
        report.end()
    return _DAMAGED if report.wrong else 0


@cache.command(epilog=examples(f"{PROGRAM} cache rm sha256:…"))
@_of_a_cache
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
def rm(digests: tuple[str, ...], **flags: object) -> int:
    """Remove blobs; a client that is reading one gets all of it.

    The exit code is 1 when one is not there.
    """
    try:
        for digest in digests:
            Digest.parse(digest)
    except ValueError as error:
        raise UserError(str(error)) from error
    missing = []

    def take(message: Mapping[str, Any]) -> None:
        if "missing" in message:
            missing.append(message["missing"])
            click.echo(f"{PROGRAM}: {message['missing']} is not in the cache", err=True)

    _perform(flags, "rm", {"digests": digests}, take)
    return 1 if missing else 0


@cache.command(
    epilog=examples(f"{PROGRAM} cache prune --to 10GiB", f"{PROGRAM} cache prune --to 50%")
)
@_of_a_cache
@click.option(
    "--to",
    "target",
    metavar="SIZE|PERCENT",
    required=True,
    help="How much may be left: 10GiB, or a part of the cache's size, 50%.",
)
def prune(target: str, **flags: object) -> int:
    """Evict what would be evicted next until no more than SIZE is used.

    What is in use stays; the exit code is 1 when more is left for that reason.
    """
    try:
        parse_share(target)
    except ValueError as error:
        raise UserError(f"--to: {error}") from error
    pruned: dict[str, Any] = {}
    with _Progress("prune") as progress:

        def take(message: Mapping[str, Any]) -> None:
            if not progress.take(message):
                pruned.update(message["pruned"])

        _perform(flags, "prune", {"to": target}, take)
    _say(f"{format_size(pruned['freed'])} freed, {format_size(pruned['used'])} used")
    if not pruned["enough"]:
        raise click.ClickException("what is left is in use; try again later")
    return 0


# Output


def _describe_usage(usage: Mapping[str, Any]) -> str:
    share = 100 * usage["used"] / max(1, usage["limit"])
    state = ["scanning: nothing new is stored yet"] if usage["scanning"] else []
    state += (
        ["degraded: the disk is full or fails, nothing new is stored"] if usage["degraded"] else []
    )
    rows = {
        "size": format_size(usage["limit"]),
        "used": f"{format_size(usage['used'])} ({share:.1f}%)",
        "reserved": format_size(usage["reserved"]),
        "blobs": f"{usage['blobs']} ({format_size(usage['blob_bytes'])})",
        "partial blobs": usage["partial"],
        "quarantined blobs": usage["quarantined"],
        "files not ours": usage["unknown"],
        "free on disk": f"{format_size(usage['free'])} (kept free: {format_size(usage['floor'])})",
        "state": "; ".join(state) or "ok",
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in rows.items())


class _Report:
    """What a verify found, in lines; a progress bar is not to be written into."""

    def __init__(self) -> None:
        self.wrong = False
        self._waiting: list[str] = []

    def take(self, message: Mapping[str, Any], *, at_once: bool) -> None:
        self._waiting += self._lines(message)
        if at_once:
            self.end()

    def end(self) -> None:
        """Say what has not been said, also of a verify that was interrupted."""
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            _say(line)

    def _lines(self, message: Mapping[str, Any]) -> list[str]:
        if "damaged" in message:
            self.wrong = True
            return [f"{message['damaged']}  damaged: {message['problem']}; quarantined"]
        if "audit" in message:
            audit = message["audit"]
            self.wrong |= audit["missing"] > 0
            return _describe_audit(audit)
        verified = message["verified"]
        size, damaged = format_size(verified["size"]), verified["damaged"]
        return [f"{verified['blobs']} blobs, {size} verified, {damaged} damaged"]


def _describe_audit(audit: Mapping[str, Any]) -> list[str]:
    lines = []
    if audit["missing"]:
        lines.append(f"{audit['missing']} blobs were counted, and their files are gone")
    if audit["found"]:
        lines.append(f"{audit['found']} files were there, and not counted")
    if audit["unknown"]:
        # A name may have line ends in it, and bytes that are no text.
        example = repr(audit["example"])
        lines.append(f"{audit['unknown']} files or folders are not ours: {example} among them")
    counted, on_disk = audit["counted"], audit["on_disk"]
    if audit["mended"]:
        lines.append(f"{counted} bytes were counted, {on_disk} are on disk: mended")
    else:
        lines.append(f"{format_size(on_disk)} on disk, as counted")
    return lines


class _Progress:
    """A progress bar on stderr when that is a terminal, from the messages that tell of progress."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: ProgressBar[str] | None = None
        self._done = 0
        self._total = 0
        self._stack = ExitStack()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @property
    def is_shown(self) -> bool:
        return self._bar is not None

    def take(self, message: Mapping[str, Any]) -> bool:
        """Whether the message was one of progress."""
        if "total" in message:
            self._total = message["total"]
            if self._total and sys.stderr.isatty():
                self._bar = self._stack.enter_context(self._begin())
        elif "done" in message:
            self._move(message["done"])
        elif "verified" in message or "pruned" in message:
            self._move(self._total)
            return False
        else:
            return False
        return True

    def _begin(self) -> ProgressBar[str]:
        return click.progressbar(
            length=self._total,
            label=self._label,
            file=sys.stderr,
            item_show_func=lambda shown: shown,
        )

    def _move(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(
                done - self._done, f"{format_size(done)} of {format_size(self._total)}"
            )
        self._done = done


def _say(text: str) -> None:
    with output_errors():
        click.echo(text)


# Input


def _perform(
    flags: Mapping[str, object],
    operation: str,
    arguments: Mapping[str, object],
    take: Callable[[Mapping[str, Any]], None],
) -> None:
    from proxy.cli.upkeep import perform

    # The output is the commands'; what goes wrong beside it is told as in `main`.
    log_to_stderr("warning", f"{PROGRAM}: %(message)s")
    settings = _settings(flags)
    with private_files():
        perform(settings, operation, arguments, take=take)


def _settings(flags: Mapping[str, object]) -> CacheSettings:
    try:
        return load_cache_settings(flags)
    except SettingsError as error:
        raise UserError(str(error)) from error


def _size(text: str, option: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
