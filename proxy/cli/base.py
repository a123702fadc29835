"""What all commands share: how mistakes are told, how signals end them, how examples are shown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

PROGRAM: Final = "ecr-cache-proxy"

_BAD_USE: Final = 2


class UserError(click.ClickException):
    """What the person at the command line has to mend, in one line."""

    exit_code = _BAD_USE


def log_to_stderr(level: str, form: str) -> None:
    """Log from `level` on; what libraries log only from `info` on.

    Below that botocore tells what it signs, and AWS's answers with the tokens in them.
    """
    chosen = logging.getLevelName(level.upper())
    logging.basicConfig(level=max(chosen, logging.INFO), format=form)
    logging.getLogger("proxy").setLevel(chosen)


@contextmanager
def private_files() -> Iterator[None]:
    """Whatever is made meanwhile is for this user alone, whatever the umask was before."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def start_errors() -> Iterator[None]:
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


@contextmanager
def output_errors() -> Iterator[None]:
    """What stands in the way of writing the output is one line; a closed pipe is left to click."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer is written once more when the interpreter ends, and its
        # failure would be a traceback (Python's documentation, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"cannot write the output: {error.strerror}") from error


def examples(*lines: str) -> str:
    # \b keeps click from filling the lines that follow.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
