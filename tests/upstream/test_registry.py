"""A registry as a whole: what it knows of its peer, how it opens, what it leaves when it closes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.errors import BadGateway
from proxy.events import Events
from proxy.peer import PEER_HEADER
from proxy.upstream import Registry, RegistryConfig, open_registry
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import QUICK, Answer, FakeAws, FakeServer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Answer(200, b"", {PEER_HEADER: "9.9"}), True), (Answer(200), False)],
)
async def test_peer_is_known_by_its_header_and_asked_once(
    plain: Registry, server: FakeServer, answer: Answer, expected: bool
) -> None:
    server.tell("GET", "/v2/", answer)
    assert await asyncio.gather(*(plain.is_peer() for _ in range(5))) == [expected] * 5
    assert await plain.is_peer() is expected
    assert plain.peer is expected
    assert len(server.seen) == 1


async def test_peer_that_did_not_answer_is_asked_again(
    open_: OpenRegistry, server: FakeServer
) -> None:
    server.tell("GET", "/v2/", Answer(500), Answer(200, b"", {PEER_HEADER: "1"}))
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=replace(QUICK, attempts=1)
    )
    with pytest.raises(BadGateway):
        await registry.is_peer()
    assert registry.peer is None
    assert await registry.is_peer()


async def test_close_leaves_neither_task_nor_connection(
    server: FakeServer, aws: FakeAws, keys: None, events: Events
) -> None:
    leave = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        leave.set()
        await asyncio.Event().wait()
        return web.Response()

    server.tell("GET", "/v2/", silent)
    before = asyncio.all_tasks()
    registry = await open_registry(
        RegistryConfig(name="ecr", url=server.url, ecr=True, api_url=aws.url),
        proxies={},
        events=events,
        tuning=QUICK,
    )
    asking = asyncio.create_task(registry.is_peer())
    await leave.wait()
    await registry.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    ours = {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)}
    assert ours == set()


@pytest.mark.parametrize(
    ("config", "proxies", "words"),
    [
        (RegistryConfig(name="x", url="ftp://x"), {}, "ftp://x"),
        (RegistryConfig(name="x", url="https://u:p@x"), {}, "credentials"),
        (RegistryConfig(name="x", url="https://x/?a=b"), {}, "no URL"),
        (RegistryConfig(name="x", url="https://x:99999"), {}, "no URL"),
        (RegistryConfig(name="x y"), {}, "no URL"),
        (RegistryConfig(name="x", username="a:b"), {}, "colon"),
        (RegistryConfig(name="x"), {"https": "socks5://p"}, "HTTPS_PROXY is a socks5"),
    ],
)
async def test_configuration_that_can_never_work_is_refused(
    config: RegistryConfig, proxies: dict[str, str], words: str, events: Events
) -> None:
    with pytest.raises(ValueError, match=words):
        await open_registry(config, proxies=proxies, events=events)


async def test_configuration_shows_no_secret() -> None:
    config = RegistryConfig(name="x", password="hush", secret_access_key="hush")
    assert "hush" not in repr(config)
