"""Registries under test, opened and closed; and an environment without any AWS in it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.events import Events
from proxy.upstream import Registry, RegistryConfig, Tuning, open_registry
from tests.upstream.fakes import QUICK, FakeAws, FakeServer, Told

OpenRegistry = Callable[..., Awaitable[Registry]]


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, no files, no metadata service, no forward proxy of the machine's."""
    import os

    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS credentials in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-secret")


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def told(events: Events) -> Told:
    return Told(events)


@pytest.fixture
async def make_server() -> AsyncIterator[Callable[[], Awaitable[FakeServer]]]:
    async with AsyncExitStack() as stack:

        async def make() -> FakeServer:
            server = FakeServer()
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield make


@pytest.fixture
async def server(make_server: Callable[[], Awaitable[FakeServer]]) -> FakeServer:
    return await make_server()


@pytest.fixture
async def aws() -> AsyncIterator[FakeAws]:
    fake = FakeAws()
    await fake.start()
    yield fake
    if fake.gate is not None:
        fake.gate.set()
    await fake.close()


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """What is dropped unclosed warns now, in the test that dropped it."""
    yield
    gc.collect()


@pytest.fixture
async def open_(events: Events, nothing_left_open: None) -> AsyncIterator[OpenRegistry]:
    """Opens registries, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def opener(
            config: RegistryConfig,
            *,
            proxies: Mapping[str, str] | None = None,
            tuning: Tuning = QUICK,
        ) -> Registry:
            registry = await open_registry(
                config, proxies=proxies or {}, events=events, tuning=tuning
            )
            stack.push_async_callback(registry.close)
            return registry

        yield opener


@pytest.fixture
async def plain(open_: OpenRegistry, server: FakeServer) -> Registry:
    """A plain registry without credentials."""
    return await open_(RegistryConfig(name="lan:5000", url=server.url))


@pytest.fixture
async def ecr(open_: OpenRegistry, server: FakeServer, aws: FakeAws, keys: None) -> Registry:
    """ECR by its own name, on this machine."""
    return await open_(
        RegistryConfig(
            name="123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            url=server.url,
            ecr=True,
            api_url=aws.url,
        )
    )
