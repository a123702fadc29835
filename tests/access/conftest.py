"""Users with passwords, a clock, and threads that count what they are given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.access.files import Htpasswd
from tests.clocks import Clock

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """Counts the passwords that are tried; none is while `gate` is shut."""

    def __init__(self) -> None:
        super().__init__(2)
        self.tried = 0
        self.gate = threading.Event()
        self.gate.set()
        self._news = asyncio.Event()

    async def until(self, tried: int) -> None:
        """Wait until so many passwords have been given to them."""
        while self.tried < tried:
            self._news.clear()
            await self._news.wait()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.tried += 1
        self._news.set()

        def work() -> T:
            self.gate.wait()
            return fn(*args, **kwargs)

        return super().submit(work)


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads() as threads:
        yield threads
        threads.gate.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def htpasswd(tmp_path: Path) -> Htpasswd:
    return Htpasswd(tmp_path / "htpasswd", {"alice": "wonderland", "bob": "builder"})
