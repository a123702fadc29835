"""The command line: what the commands are called, what they print, and how they end.

Every mistake of the user is one line on stderr and exit code 2, without a traceback. The commands
import what they run when they run, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

import click

from proxy import __version__
from proxy.config import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_LISTEN,
    DEFAULT_SHUTDOWN_TIMEOUT,
    LogLevel,
    Rewrite,
    Settings,
    SettingsError,
    Show,
    is_loopback,
    load_settings,
    parse_listen,
)
from proxy.oci import MAX_MANIFEST_BYTES, RepositoryName

PROGRAM: Final = "ecr-cache-proxy"

_BAD_USE: Final = 2


class UserError(click.ClickException):
    """What the person at the command line has to mend, in one line."""

    exit_code = _BAD_USE


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit. When whoever read the output has gone, click ends it with 1."""
    try:
        status = commands.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        _complain(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(error: click.ClickException) -> None:
    """One line, whatever click would make of it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text = f"{text.rstrip('.')}; see {error.ctx.command_path} --help"
    click.echo(f"{PROGRAM}: {text}", err=True)


@contextmanager
def _start_errors() -> Iterator[None]:
    from proxy.app import StartError

    try:
        yield
    except StartError as error:
        raise UserError(str(error)) from error


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run what ends when its event is set; SIGTERM and SIGINT set it.

    A second signal ends the process at once, for the person who will not wait for what is in
    flight.
    """

    async def run() -> None:
        stop = asyncio.Event()

        def on_signal(number: int) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        await work(stop)

    asyncio.run(run())


def _examples(*lines: str) -> str:
    # \b keeps click from filling the lines that follow.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(
    context_settings=_CONTEXT,
    epilog=_examples(
        f"{PROGRAM} demo",
        f"{PROGRAM} serve --registry 123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        f"{PROGRAM} serve --help",
    ),
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """A caching reverse proxy in front of Amazon ECR.

    It keeps layers near the builders, and lets every BuildKit export its cache to ECR.
    """


@commands.command(
    epilog=_examples(
        f"{PROGRAM} serve --registry 123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        f"{PROGRAM} serve --registry http://lan-cache:5000 --cache-dir /var/cache/ecr",
        f"{PROGRAM} serve --config /etc/ecr-cache-proxy.toml --log-level warning",
    )
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Address for clients; port 0 takes a free one. [default: {DEFAULT_LISTEN}]",
)
@click.option(
    "--registry",
    multiple=True,
    metavar="HOST_OR_URL",
    help="Upstream registry: the host name of an ECR registry, or the http:// or https:// URL of "
    "any other. Repeatable; the first is the default.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Where the cache is kept. [default: /var/cache/ecr-cache-proxy for root, else "
    "$XDG_CACHE_HOME/ecr-cache-proxy, else ~/.cache/ecr-cache-proxy]",
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help=f"Most that the cache may hold: 20GiB, 500MB. [default: {DEFAULT_CACHE_SIZE}]",
)
@click.option("--config", metavar="FILE", help="Settings file (TOML).")
@click.option(
    "--rewrite",
    metavar="|".join(get_args(Rewrite)),
    help="Whether caches pushed in BuildKit's legacy form are stored as image manifests; auto: "
    "where the registry is ECR. [default: auto]",
)
@click.option(
    "--show",
    metavar="|".join(get_args(Show)),
    help="Form in which readers get a cache by its tag; auto: the one that the client can read. "
    "[default: auto]",
)
@click.option(
    "--shutdown-timeout",
    metavar="TIME",
    help="How long requests in flight may take to finish at the end. "
    f"[default: {DEFAULT_SHUTDOWN_TIMEOUT}]",
)
@click.option(
    "--log-level", metavar="|".join(get_args(LogLevel)), help="Least level logged. [default: info]"
)
@click.option(
    "--insecure-no-client-auth",
    is_flag=True,
    default=None,
    help="Listen on an address that is not loopback, though clients are not authenticated.",
)
def serve(**flags: object) -> None:
    """Run the proxy.

    Every option can also be given as ECR_CACHE_PROXY_<OPTION> in the environment (lists with
    commas) and as a key of the settings file. Options come before the environment, that before
    the file. AWS credentials come from the usual chain: environment, ~/.aws, container or
    instance role.
    """
    from proxy import app

    settings = _load(flags)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    if settings.insecure_no_client_auth:
        logging.getLogger(__name__).warning(
            "clients are not authenticated: whoever reaches %s:%d pulls and pushes with the "
            "proxy's credentials",
            settings.host,
            settings.port,
        )

    def on_ready(started: app.Started) -> None:
        first, *others = started.registries
        names = ", ".join([f"{first} (default)", *others])
        click.echo(f"{PROGRAM} {__version__} listening on http://{started.address}, for {names}")

    with _start_errors():
        run_until_signal(lambda stop: app.serve(settings, stop=stop, ready=on_ready))


def _load(flags: dict[str, object]) -> Settings:
    from proxy.upstream import parse_host

    try:
        settings = load_settings(flags)
    except SettingsError as error:
        raise UserError(str(error)) from error
    for registry in settings.registries:
        # With an endpoint and a region of its own there is nothing left that the name must tell.
        told = registry.url is not None and registry.region is not None
        if registry.ecr and not told and parse_host(registry.name) is None:
            raise UserError(
                f"{registry.name} is no ECR host; for another registry give its URL, "
                f"https://{registry.name}"
            )
    return settings


@commands.command(
    epilog=_examples(
        f"{PROGRAM} standin",
        f"{PROGRAM} standin --dir ./ecr --repository app --repository app-cache",
    )
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:5100",
    help="Loopback address of the registry API and ECR's JSON API; port 0 takes a free one. "
    "[default: 127.0.0.1:5100]",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the state there, for the next start too. [default: a temporary directory]",
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="NAME",
    help="Repository that exists. Repeatable. [default: any comes to exist by a push]",
)
def standin(listen: str, directory: Path | None, repositories: tuple[str, ...]) -> None:
    """Run a strict local stand-in for Amazon ECR.

    What ECR refuses, it refuses: a cache in BuildKit's legacy form, a manifest whose layers are
    missing, an expired token. For trying things without an AWS account.
    """
    from proxy.introductions import introduce_standin
    from proxy.standin import StandIn, StandInSettings

    host, port = _loopback(listen)
    for name in repositories:
        try:
            RepositoryName.parse(name)
        except ValueError as error:
            raise UserError(f"--repository: {error}") from error
    settings = StandInSettings(
        directory=directory,
        repositories=repositories,
        create_on_push=() if repositories else ("ROOT",),
    )

    async def run(stop: asyncio.Event) -> None:
        try:
            running = StandIn(settings, listen=host, port=port)
            await running.start()
        except OSError as error:
            if error.filename is not None:
                told = f"cannot use {error.filename}: {error.strerror}; choose another --dir"
            else:
                why = os.strerror(error.errno or 0)
                told = f"cannot listen on {listen}: {why}; choose another address with --listen"
            raise UserError(told) from error
        try:
            click.echo(introduce_standin(running))
            await stop.wait()
        finally:
            await running.close()

    run_until_signal(run)


@commands.command(epilog=_examples(f"{PROGRAM} demo", f"{PROGRAM} demo --listen 127.0.0.1:5001"))
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_LISTEN,
    help=f"Loopback address of the proxy. [default: {DEFAULT_LISTEN}]",
)
def demo(listen: str) -> None:
    """Try it out: stand-in and proxy in one, without an AWS account.

    Prints commands for docker buildx, buildctl and skopeo to paste, then one line for each thing
    that the proxy does, until Ctrl-C. Nothing is left behind.
    """
    from proxy.demo import run_demo

    host, port = _loopback(listen)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with _start_errors():
        run_until_signal(lambda stop: run_demo(host=host, port=port, stop=stop, say=click.echo))


def _loopback(listen: str) -> tuple[str, int]:
    """Host and port to listen on without any protection."""
    try:
        host, port = parse_listen(listen)
    except ValueError as error:
        raise UserError(f"--listen: {error}") from error
    if not is_loopback(host):
        raise UserError(f"--listen: {host} is no loopback address; write 127.0.0.1:{port}")
    return host, port


@commands.command(
    epilog=_examples(
        f"{PROGRAM} rewrite --to image-manifest < index.json > manifest.json",
        f"skopeo inspect --raw docker://HOST/REPO:cache | {PROGRAM} rewrite --to index",
    )
)
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(["image-manifest", "index", "docker-list"]),
    help="image-manifest: what the proxy would store in ECR; index, docker-list: what it would "
    "show a client that reads that legacy form.",
)
def rewrite(form: str) -> None:
    """Rewrite a BuildKit cache manifest from stdin to stdout.

    The output is exactly what the proxy would store or show, without a newline at its end. For
    anything but a cache manifest there is no output, and the exit code is 1.
    """
    from proxy import buildcache

    content = sys.stdin.buffer.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise click.ClickException("more than a manifest's 4 MiB on stdin")
    try:
        if form == "image-manifest":
            rewritten = buildcache.to_stored(content).manifest.content
        else:
            rewritten = buildcache.show(content, buildcache.Form(form))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    try:
        click.echo(rewritten, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer is written once more when the interpreter ends, and its
        # failure would be a traceback (Python's documentation, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"cannot write the output: {error.strerror}") from error
