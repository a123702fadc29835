"""What all commands share: how mistakes are told, how signals end them, how examples are shown."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

PROGRAM: Final = "ecr-cache-proxy"

_BAD_USE: Final = 2


class UserError(click.ClickException):
    """What the person at the command line has to mend, in one line."""

    exit_code = _BAD_USE


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


def examples(*lines: str) -> str:
    # \b keeps click from filling the lines that follow.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
