"""A registry that does not answer: told at once to who pulls, waited out by who pushes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.errors import (
    BadGateway,
    GatewayTimeout,
    ManifestUnknown,
    RegistryError,
    Unavailable,
)
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest, RepositoryName, Tag
from proxy.upstream import Registry, RegistryConfig
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import (
    QUICK,
    UNAUTHORIZED,
    Answer,
    FakeServer,
    Handler,
    Told,
    hang_up,
)

REPO = RepositoryName("team/app")
LATEST = Tag("latest")
PATH = f"/v2/{REPO}/manifests/{LATEST}"
FOUND = Answer(200, b"{}", {"Content-Type": OCI_MANIFEST})
# No probe but the first one, unless a test says so: the second is far off.
ONCE = replace(QUICK, first_probe=3600.0, last_probe=3600.0)


def break_down(server: FakeServer, *answers: Answer | Handler) -> None:
    for method, target in (("GET", "/v2/"), ("GET", PATH), ("PUT", PATH), ("HEAD", PATH)):
        server.tell(method, target, *answers)


async def fetch_until_down(registry: Registry) -> None:
    for _ in range(QUICK.failures + 1):  # the last one hears the verdict
        with pytest.raises(RegistryError):
            await registry.get_manifest(REPO, LATEST)
    assert registry.is_down


@pytest.mark.parametrize("answer", [Answer(500), Answer(502), Answer(503), hang_up])
async def test_a_registry_that_is_down_is_left_alone(
    open_: OpenRegistry, server: FakeServer, answer: Answer | Handler
) -> None:
    break_down(server, answer)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=ONCE)
    await fetch_until_down(registry)
    asked = len(server.seen)
    with pytest.raises((BadGateway, Unavailable), match="lan does not answer") as raised:
        await registry.get_manifest(REPO, LATEST)
    assert int(raised.value.headers["Retry-After"]) >= 1
    assert raised.value.is_trouble
    with pytest.raises(RegistryError):
        await registry.ping()
    assert len(server.seen) == asked


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}", "http://registry.invalid", "https://127.0.0.1:{server}"],
    ids=["refused", "unknown name", "no TLS"],
)
async def test_no_connection_is_an_outage(
    open_: OpenRegistry, server: FakeServer, unused_tcp_port: int, url: str
) -> None:
    url = url.format(port=unused_tcp_port, server=server.port)
    registry = await open_(RegistryConfig(name="lan", url=url), tuning=ONCE)
    await fetch_until_down(registry)
    with pytest.raises(BadGateway, match="lan does not answer"):
        await registry.get_manifest(REPO, LATEST)


async def test_a_registry_that_hangs_is_given_up_after_one_request(open_: OpenRegistry) -> None:
    """It takes connections, and never answers."""
    leave = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    registry = await open_(
        RegistryConfig(name="lan", url=f"http://127.0.0.1:{port}"),
        tuning=replace(ONCE, answer=0.05, verdict=0.05),
    )
    with pytest.raises(GatewayTimeout):
        await registry.get_manifest(REPO, LATEST)
    with pytest.raises(GatewayTimeout, match=r"lan does not answer: .* fell silent"):
        await registry.get_manifest(REPO, LATEST)
    assert registry.is_down
    leave.set()
    await registry.close()
    listener.close()
    await listener.wait_closed()


async def test_connections_that_are_dead_do_not_speak_for_the_registry(
    open_: OpenRegistry, server: FakeServer, told: Told
) -> None:
    """As where a router has forgotten them: the probe has one of its own."""
    leave = asyncio.Event()
    old: set[object] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.transport in old:
            await leave.wait()
        old.add(request.transport)
        return web.Response(body=b"{}", content_type=OCI_MANIFEST)

    server.tell("GET", PATH, answer)
    server.tell("GET", "/v2/", answer)
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=replace(ONCE, answer=0.2)
    )
    await registry.get_manifest(REPO, LATEST)
    # That connection is used again, is silent, and is given up; the next one is new.
    await registry.get_manifest(REPO, LATEST)
    assert not told.of(Kind.TROUBLE)
    leave.set()


async def test_each_probe_has_a_connection_of_its_own(
    open_: OpenRegistry, server: FakeServer
) -> None:
    probed = []

    async def answer(request: web.Request) -> web.StreamResponse:
        probed.append(request.transport)
        return web.Response()

    server.tell("GET", PATH, Answer(500))
    server.tell("GET", "/v2/", answer)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=ONCE)
    while len(probed) < 3:
        with pytest.raises(BadGateway):
            await registry.get_manifest(REPO, LATEST)
    assert len(set(probed)) == len(probed)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 416, 429])
async def test_an_answer_is_no_outage_whatever_it_says(
    open_: OpenRegistry, server: FakeServer, told: Told, status: int
) -> None:
    break_down(server, Answer(status, headers={"Retry-After": "600"}))
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=ONCE)
    for _ in range(2 * QUICK.failures):
        with pytest.raises(RegistryError):
            await registry.get_manifest(REPO, LATEST)
    assert not registry.is_down
    assert "GET /v2/" not in [f"{seen.method} {seen.target}" for seen in server.seen]


async def test_refused_credentials_do_not_keep_an_outage_from_ending(
    ecr: Registry, server: FakeServer, told: Told
) -> None:
    server.tell("GET", PATH, Answer(500))
    server.tell("GET", "/v2/", Answer(500), Answer(500), UNAUTHORIZED)
    with pytest.raises(RegistryError):
        await ecr.get_manifest(REPO, LATEST)
    await told.wait_for(Kind.RECOVERED)
    assert not ecr.is_down


async def test_trouble_of_what_stores_the_blobs_is_no_outage(
    open_: OpenRegistry,
    server: FakeServer,
    make_server: Callable[[], Awaitable[FakeServer]],
    told: Told,
) -> None:
    storage = await make_server()
    storage.tell("GET", "/blob", Answer(503))
    digest = Digest.of(b"blob")
    where = Answer(307, b"", {"Location": f"{storage.url}/blob"})
    server.tell("GET", f"/v2/{REPO}/blobs/{digest}", where)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=ONCE)
    for _ in range(QUICK.failures):
        with pytest.raises(Unavailable):
            async with registry.open_blob(REPO, digest):
                pass
    assert not registry.is_down
    assert server.targets("GET") == [f"/v2/{REPO}/blobs/{digest}"] * len(server.seen)


async def test_one_thing_that_always_fails_shuts_out_nobody(
    open_: OpenRegistry, server: FakeServer, told: Told
) -> None:
    server.tell("GET", PATH, Answer(500))
    server.tell("HEAD", PATH, Answer(404))
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=ONCE)
    for _ in range(3):
        with pytest.raises(BadGateway):
            await registry.get_manifest(REPO, LATEST)
        with pytest.raises(ManifestUnknown):
            await registry.head_manifest(REPO, LATEST)
    assert not told.of(Kind.TROUBLE)


async def test_a_push_waits_for_the_end_of_an_outage(
    open_: OpenRegistry, server: FakeServer, told: Told
) -> None:
    back, probed = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        if told.of(Kind.TROUBLE):
            probed.set()
        if request.method == "PUT" and back.is_set():
            return web.Response(status=201)
        return web.Response(status=200 if back.is_set() else 503)

    break_down(server, answer)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=QUICK)
    putting = asyncio.create_task(registry.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST))
    await told.wait_for(Kind.TROUBLE)
    puts = len(server.targets("PUT"))
    await probed.wait()
    assert len(server.targets("PUT")) == puts  # the probe alone asks
    back.set()
    await putting
    assert len(server.targets("PUT")) == puts + 1
    assert told.of(Kind.RECOVERED)


async def test_a_push_does_not_wait_for_ever(open_: OpenRegistry, server: FakeServer) -> None:
    break_down(server, Answer(503))
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=replace(QUICK, push_patience=0.2)
    )
    with pytest.raises(Unavailable, match="lan does not answer"):
        await registry.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST)


async def test_closing_a_registry_ends_its_probes(open_: OpenRegistry, server: FakeServer) -> None:
    break_down(server, hang_up)
    registry = await open_(RegistryConfig(name="lan", url=server.url))
    await fetch_until_down(registry)
    await registry.close()
    asked = len(server.seen)
    with pytest.raises(BadGateway):
        await registry.get_manifest(REPO, LATEST)
    assert len(server.seen) == asked
