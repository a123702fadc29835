"""Credentials, repetitions and refreshes, whatever the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.errors import (
    BadGateway,
    Denied,
    GatewayTimeout,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
    TooManyRequests,
    Unavailable,
)
from proxy.events import Kind
from proxy.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    RepositoryName,
    Tag,
)
from proxy.peer import PEER_HEADER, version
from proxy.upstream import Registry, RegistryConfig, Tuning, Upload
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import (
    EXPIRED,
    QUICK,
    UNAUTHORIZED,
    Answer,
    FakeAws,
    FakeServer,
    Handler,
    Told,
    ecr_error,
    hang_up,
)

REPO = RepositoryName("team/app")
LATEST = Tag("latest")
PATH = f"/v2/{REPO}/manifests/{LATEST}"
FOUND = Answer(200, b"{}", {"Content-Type": OCI_MANIFEST})


async def test_every_request_says_who_asks_and_what_is_understood(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("GET", "/v2/", Answer(200, b"{}"))
    await plain.ping()
    headers = server.seen[0].headers
    assert headers["User-Agent"] == f"ecr-cache-proxy/{version()}"
    assert headers[PEER_HEADER] == version()
    assert headers["Accept-Encoding"] == "identity"
    for media_type in (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST):
        assert media_type in headers["Accept"]
    assert "Authorization" not in headers


async def test_token_is_sent_as_aws_gave_it(ecr: Registry, server: FakeServer) -> None:
    server.tell("GET", "/v2/", Answer(200))
    await ecr.ping()
    assert server.seen[0].authorization == FakeAws.header(1)


async def test_first_requests_all_at_once_take_one_token(
    open_: OpenRegistry, server: FakeServer, aws: FakeAws, keys: None
) -> None:
    aws.gate = asyncio.Event()
    registry = await open_(
        RegistryConfig(name="ecr", url=server.url, ecr=True, api_url=aws.url),
        tuning=Tuning(start_wait=0.0),
    )
    server.tell("GET", PATH, FOUND)
    asking = [asyncio.create_task(registry.get_manifest(REPO, LATEST)) for _ in range(50)]
    await aws.asked.wait()
    asking[0].cancel()
    aws.gate.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert not any(isinstance(outcome, Exception) for outcome in outcomes[1:])
    assert aws.tokens == 1


@pytest.mark.parametrize("status", [EXPIRED, UNAUTHORIZED, Answer(400, EXPIRED.body)])
async def test_refused_token_is_renewed_and_the_request_repeated_once(
    ecr: Registry, server: FakeServer, aws: FakeAws, told: Told, status: Answer
) -> None:
    server.tell("GET", PATH, FOUND, status, FOUND)
    await ecr.get_manifest(REPO, LATEST)
    await ecr.get_manifest(REPO, LATEST)
    used = [seen.authorization for seen in server.seen]
    assert used == [FakeAws.header(1), FakeAws.header(1), FakeAws.header(2)]
    assert aws.tokens == 2
    await told.wait_for(Kind.TOKEN)


async def test_many_refused_at_once_take_one_new_token(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == FakeAws.header(1):
            return web.Response(status=401, text="Not Authorized\n")
        return web.Response(body=b"{}", content_type=OCI_MANIFEST)

    server.tell("GET", PATH, FOUND, answer)
    await ecr.get_manifest(REPO, LATEST)
    await asyncio.gather(*(ecr.get_manifest(REPO, LATEST) for _ in range(50)))
    assert aws.tokens == 2


async def test_refusal_of_the_new_token_too_is_told_without_a_challenge(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    server.tell("GET", PATH, FOUND, UNAUTHORIZED)
    await ecr.get_manifest(REPO, LATEST)
    with pytest.raises(Unavailable, match=r"refused the proxy's credentials.*Not Authorized"):
        await ecr.get_manifest(REPO, LATEST)
    assert aws.tokens == 2
    assert len(server.seen) == 3


async def test_lasting_refusal_does_not_hammer_aws(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    server.tell("GET", PATH, UNAUTHORIZED)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await ecr.get_manifest(REPO, LATEST)
    assert aws.tokens == 1


async def test_denial_is_kept_and_refreshes_nothing(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    said = "User: arn:x is not authorized to perform: ecr:BatchGetImage on resource: y"
    server.tell("GET", PATH, Answer(403, ecr_error("DENIED", said)))
    server.tell("HEAD", PATH, Answer(403))
    with pytest.raises(Denied) as raised:
        await ecr.get_manifest(REPO, LATEST)
    assert raised.value.message == said
    with pytest.raises(Denied):
        await ecr.head_manifest(REPO, LATEST)
    assert aws.tokens == 1


async def test_silent_refusal_of_an_old_token_is_worth_a_new_one(
    ecr: Registry, server: FakeServer, aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A HEAD has no words: an expired token and a denial look the same."""
    monkeypatch.setattr("proxy.upstream.client._YOUNG", -1.0)
    server.tell("HEAD", PATH, FOUND, Answer(403), FOUND)
    await ecr.head_manifest(REPO, LATEST)
    await ecr.head_manifest(REPO, LATEST)
    assert aws.tokens == 2


async def test_silent_denial_stays_one_when_no_new_token_is_to_be_had(
    ecr: Registry, server: FakeServer, aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstream.client._YOUNG", -1.0)
    server.tell("HEAD", PATH, FOUND, Answer(403))
    await ecr.head_manifest(REPO, LATEST)
    aws.refusals.extend([(400, "AccessDeniedException", "no")] * 2)
    with pytest.raises(Denied):
        await ecr.head_manifest(REPO, LATEST)


async def test_missing_credentials_are_told(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, UNAUTHORIZED)
    with pytest.raises(Unavailable, match=r"lan:5000 wants credentials .*configured with none"):
        await plain.get_manifest(REPO, LATEST)


async def test_wrong_basic_credentials_are_told_not_repeated(
    open_: OpenRegistry, server: FakeServer
) -> None:
    registry = await open_(RegistryConfig(name="lan", url=server.url, username="u", password="p"))
    server.tell("GET", PATH, UNAUTHORIZED)
    with pytest.raises(Unavailable, match="lan refused the proxy's credentials"):
        await registry.get_manifest(REPO, LATEST)
    assert [seen.authorization for seen in server.seen] == ["Basic dTpw"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_reading_outlasts_an_outage_of_a_moment(
    plain: Registry, server: FakeServer, status: int
) -> None:
    server.tell("GET", PATH, Answer(status), Answer(status), FOUND)
    await plain.get_manifest(REPO, LATEST)
    assert len(server.seen) == 3


async def test_dropped_connections_are_outlasted(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, hang_up, hang_up, FOUND)
    await plain.get_manifest(REPO, LATEST)


async def test_body_that_breaks_off_is_asked_for_again(plain: Registry, server: FakeServer) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    server.tell("GET", PATH, cut, FOUND)
    assert (await plain.get_manifest(REPO, LATEST)).content == b"{}"


async def test_not_found_is_not_repeated(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, Answer(404))
    with pytest.raises(ManifestUnknown):
        await plain.get_manifest(REPO, LATEST)
    assert len(server.seen) == 1


async def test_retry_after_beyond_our_patience_goes_to_the_client(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("GET", PATH, Answer(429, headers={"Retry-After": "600"}))
    with pytest.raises(TooManyRequests) as raised:
        await plain.get_manifest(REPO, LATEST)
    assert raised.value.headers == {"Retry-After": "600"}
    assert len(server.seen) == 1


async def test_deleting_is_repeated_after_throttling_only(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("DELETE", PATH, Answer(429), Answer(429), Answer(202))
    await plain.delete_manifest(REPO, LATEST)
    assert len(server.seen) == 3
    server.seen.clear()
    other = f"/v2/{REPO}/manifests/other"
    server.tell("DELETE", other, Answer(500), Answer(202))
    with pytest.raises(BadGateway):
        await plain.delete_manifest(REPO, Tag("other"))
    assert len(server.seen) == 1


async def test_deletion_of_unknown_fate_is_not_repeated(
    plain: Registry, server: FakeServer
) -> None:
    """Not by aiohttp either, on a connection that served before."""
    server.tell("GET", "/v2/", Answer(200))
    await plain.ping()
    server.tell("DELETE", PATH, hang_up)
    with pytest.raises(BadGateway, match="dropped the connection"):
        await plain.delete_manifest(REPO, LATEST)
    assert len(server.seen) == 2


TROUBLE: list[Answer | Handler] = [Answer(500), Answer(503), hang_up, Answer(429)] * 3


async def test_a_manifest_waits_out_trouble_however_many_attempts_that_takes(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("PUT", PATH, *TROUBLE, Answer(201))
    await plain.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST)
    assert len(server.targets("PUT")) == len(TROUBLE) + 1 > QUICK.attempts
    assert {seen.body for seen in server.seen if seen.method == "PUT" and seen.body} == {b"{}"}


@pytest.mark.parametrize("patient", [True, False])
async def test_what_a_push_asks_waits_out_trouble_and_what_a_pull_asks_does_not(
    plain: Registry, server: FakeServer, patient: bool
) -> None:
    blob = Digest.of(b"blob")
    found = Answer(200, b"", {"Content-Length": "0"})
    server.tell("HEAD", PATH, *TROUBLE, found)
    server.tell("HEAD", f"/v2/{REPO}/blobs/{blob}", *TROUBLE, found)
    accepted = Answer(202, b"", {"Location": "/upload"})
    server.tell("POST", f"/v2/{REPO}/blobs/uploads/", *TROUBLE, accepted)
    asking: list[Callable[[], Awaitable[object]]] = [
        lambda: plain.head_manifest(REPO, LATEST, patient=patient),
        lambda: plain.head_blob(REPO, blob, patient=patient),
        lambda: plain.start_upload(REPO, patient=patient),
    ]
    for ask in asking:
        if patient:
            await ask()
        else:
            with pytest.raises(RegistryError) as raised:
                await ask()
            assert raised.value.is_trouble


async def test_an_upload_does_not_wait_for_what_may_be_an_answer(
    ecr: Registry, server: FakeServer
) -> None:
    """Until 2024 ECR dropped the connection for a repository that is not there."""
    server.tell("POST", f"/v2/{REPO}/blobs/uploads/", hang_up)
    with pytest.raises(NameUnknown):
        await ecr.start_upload(REPO)
    assert len(server.targets("POST")) == QUICK.attempts


async def test_a_hung_manifest_is_given_up_while_its_client_still_listens(
    open_: OpenRegistry,
    server: FakeServer,
    aws: FakeAws,
    keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.upstream.client._LAST_TRY", 0.05)
    leave = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await leave.wait()
        return web.Response()

    server.tell("PUT", PATH, silent)
    registry = await open_(
        RegistryConfig(name="ecr", url=server.url, ecr=True, api_url=aws.url),
        tuning=replace(QUICK, push_patience=0.05, idle=3600.0),
    )
    with pytest.raises(GatewayTimeout):
        await registry.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST)
    leave.set()


async def test_an_answer_that_comes_a_byte_at_a_time_is_given_up(
    open_: OpenRegistry, server: FakeServer
) -> None:
    """It is never silent, and whoever waits for it would wait for ever."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0)
        return response

    server.tell("GET", PATH, drip)
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=replace(QUICK, idle=0.1, attempts=1)
    )
    with pytest.raises(GatewayTimeout):
        await registry.get_manifest(REPO, LATEST)


async def test_wait_for_a_connection_is_bounded(open_: OpenRegistry, server: FakeServer) -> None:
    leave, inside = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        inside.set()
        await leave.wait()
        return web.Response()

    server.tell("GET", "/v2/", slow)
    registry = await open_(
        RegistryConfig(name="lan", url=server.url),
        tuning=Tuning(connections=1, queue=0.05, attempts=1),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(registry.ping())
        await inside.wait()
        with pytest.raises(GatewayTimeout, match="no connection in time"):
            await registry.ping()
        leave.set()


async def test_writing_is_repeated_when_nothing_listened(
    open_: OpenRegistry, unused_tcp_port: int
) -> None:
    """No connection: nothing was sent, so nothing can have happened."""
    where = RegistryConfig(name="lan", url=f"http://127.0.0.1:{unused_tcp_port}")
    hasty = await open_(where, tuning=Tuning(attempts=2, first_pause=0.0))
    with pytest.raises(BadGateway, match=r"127\.0\.0\.1:\d+ cannot be reached: .*refused"):
        await hasty.delete_manifest(REPO, LATEST)

    patient = await open_(where, tuning=QUICK)
    putting = asyncio.create_task(patient.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST))
    bodies = []

    async def take(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return web.Response(status=201)

    app = web.Application()
    app.router.add_put(PATH, take)
    late = TestServer(app, port=unused_tcp_port)
    await late.start_server()
    await putting
    await late.close()
    assert bodies == [b"{}"]


async def test_unknown_host_is_named(open_: OpenRegistry) -> None:
    registry = await open_(
        RegistryConfig(name="lan", url="http://registry.invalid"), tuning=Tuning(attempts=1)
    )
    with pytest.raises(BadGateway, match=r"registry\.invalid cannot be resolved"):
        await registry.ping()


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
async def test_silence_after_an_interim_reply_is_a_timeout(
    open_: OpenRegistry, server: FakeServer, method: str
) -> None:
    leave = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await leave.wait()
        return web.Response()

    async def body() -> AsyncIterator[bytes]:
        yield b"four"

    server.tell(method, PATH if method == "PUT" else "/v2/", silent)
    tuning = Tuning(answer=0.05, idle=0.05, push_patience=0.05, attempts=1)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=tuning)
    upload = Upload(f"{server.url}/v2/")
    asking: dict[str, Callable[[], Awaitable[object]]] = {
        "GET": registry.ping,
        "PUT": partial(registry.put_manifest, REPO, LATEST, b"{}", OCI_MANIFEST),
        "PATCH": partial(registry.send_chunk, upload, offset=0, length=4, body=body),
    }
    with pytest.raises(GatewayTimeout):
        await asking[method]()
    leave.set()


async def test_silence_is_a_timeout(open_: OpenRegistry, server: FakeServer) -> None:
    leave = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await leave.wait()
        return web.Response()

    server.tell("GET", "/v2/", silent)
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=Tuning(answer=0.05, attempts=1)
    )
    with pytest.raises(GatewayTimeout, match="silent"):
        await registry.ping()
    leave.set()


async def test_what_is_no_http_is_a_bad_gateway(open_: OpenRegistry) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    registry = await open_(
        RegistryConfig(name="lan", url=f"http://127.0.0.1:{port}"), tuning=Tuning(attempts=1)
    )
    with pytest.raises(BadGateway):
        await registry.ping()
    listener.close()
    await listener.wait_closed()


async def test_long_headers_are_taken(
    plain: Registry, server: FakeServer, make_server: Callable[[], Awaitable[FakeServer]]
) -> None:
    target = "/x?X-Amz-Security-Token=" + "a" * 7000
    headers = {"Location": target, "X-Long": "b" * 60_000}
    server.tell("GET", "/v2/", Answer(307, b"", headers))
    server.tell("GET", target, Answer(200))
    await plain.ping()


async def test_cookies_are_not_kept(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", "/v2/", Answer(200, b"", {"Set-Cookie": "AWSALB=x; Path=/"}))
    await plain.ping()
    await plain.ping()
    assert "Cookie" not in server.seen[1].headers
