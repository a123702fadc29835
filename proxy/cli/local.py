"""`standin`, `demo`, `rewrite`: what needs no AWS account and changes nothing of the user's."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from proxy.cli.base import (
    PROGRAM,
    UserError,
    examples,
    log_to_stderr,
    output_errors,
    run_until_signal,
    start_errors,
)
from proxy.config import DEFAULT_LISTEN, is_loopback, parse_listen
from proxy.oci import MAX_MANIFEST_BYTES, RepositoryName


@click.command(
    epilog=examples(
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


@click.command(epilog=examples(f"{PROGRAM} demo", f"{PROGRAM} demo --listen 127.0.0.1:5001"))
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
    log_to_stderr("warning", "%(levelname)s %(message)s")
    with start_errors():
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


@click.command(
    epilog=examples(
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
    with output_errors():
        click.echo(rewritten, nl=False)
