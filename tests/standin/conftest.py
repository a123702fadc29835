from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import pytest

from proxy.standin import StandIn, StandInSettings
from tests.standin.client import REPOSITORY, Client

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(autouse=True)
def _no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """aiohttp logs what a handler raises: the stand-in is to answer, or to break off on purpose."""
    yield
    errors = [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not errors, [r.getMessage() + str(r.exc_info) for r in errors]


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Client]:
    """A client of a stand-in with one repository and these settings."""
    settings.setdefault("repositories", (REPOSITORY,))
    async with (
        StandIn(StandInSettings(**settings)) as standin,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        # aiohttp asks again by itself when a connection breaks, and would use up a fault unseen.
        session._retry_connection = False
        yield Client(standin, session)


@pytest.fixture(name="running")
def _running() -> Running:
    return running


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with running() as client:
        yield client


@pytest.fixture
def standin(client: Client) -> StandIn:
    return client.standin
