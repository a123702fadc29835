"""Starts proxies as children of one process that has imported everything already.

    python -m tests.crash.server < orders > reports

An order is a line of JSON, the fields of `Order`. What is reported, a line of JSON each:

    {"forked": PID}                          the child is there, and does not listen yet
    {"ready": PORT}                          it listens on 127.0.0.1; told by the child itself
    {"ended": STATUS, "peak": BYTES}         it has ended: as `Popen.returncode` has it, and the
                                             most memory that was resident at a time (its VmHWM)

Then comes the next order: there is one child at a time. It is a process as any other, with its
own memory: SIGKILL by its id ends it between two instructions, SIGTERM stops it as a service
manager does. What it tells is appended to a file, a letter an event, which no kill takes back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from proxy.app import Started, serve
from proxy.config import RegistrySettings, Settings
from proxy.events import Event, Events, Kind
from proxy.sizes import Share

LETTERS: Final = {kind: chr(ord("a") + number) for number, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Order:
    """A proxy over a directory, with `cache_size` bytes and no floor, telling into `events`."""

    registry: RegistrySettings
    cache_dir: str
    cache_size: int
    events: str

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: str) -> Order:
        fields: dict[str, Any] = json.loads(line)
        registry = fields.pop("registry")
        registry["redirect_hosts"] = tuple(registry["redirect_hosts"])
        return cls(registry=RegistrySettings(**registry), **fields)

    def settings(self) -> Settings:
        return Settings(
            registries=(self.registry,),
            cache_dir=Path(self.cache_dir),
            port=0,
            cache_size=self.cache_size,
            min_free=Share(),
            shutdown_timeout=10.0,
        )


def _report(**what: int) -> None:
    # One write each: parent and child share the pipe, and a short line is never torn (pipe(7)).
    os.write(1, json.dumps(what).encode() + b"\n")


async def _serve(order: Order) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    told = os.open(order.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    events = Events()

    def tell(event: Event) -> None:
        os.write(told, LETTERS[event.kind].encode())

    def ready(started: Started) -> None:
        _report(ready=int(started.address.rpartition(":")[2]))

    events.subscribe(tell)
    await serve(order.settings(), stop=stop, ready=ready, events=events)


def _run(order: Order) -> None:
    """The child: never returns to the parent's code."""
    try:
        asyncio.run(_serve(order))
    except BaseException:
        logging.exception("the proxy ended with an error")
        os._exit(1)
    os._exit(0)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(levelname)s %(message)s")
    # The children share these pages for good: no collection touches them.
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        order = Order.parse(line)
        child = os.fork()
        if child == 0:
            _run(order)
        _report(forked=child)
        _, status, usage = os.wait4(child, 0)
        _report(ended=os.waitstatus_to_exitcode(status), peak=usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
