"""Blobs: sizes, ranges, redirects to storage, bodies that break off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from proxy.errors import BadGateway, BlobUnknown, GatewayTimeout, RangeInvalid, Unavailable
from proxy.oci import Digest, RepositoryName
from proxy.upstream import BlobStream, Registry, RegistryConfig, Tuning
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import QUICK, Answer, FakeServer, cut_after, ecr_error

REPO = RepositoryName("team/app")
CONTENT = bytes(range(256)) * 40
DIGEST = Digest.of(CONTENT)
PATH = f"/v2/{REPO}/blobs/{DIGEST}"
# Nothing here may be decoded, encoded, sorted or normalised on the way.
SIGNED = "/starport//a/../b%2fc~%7E?X-Amz-Signature=a%2Fb+c%20d&y=&X-Amz-Date=1&empty"


async def read(stream: BlobStream) -> bytes:
    return b"".join([chunk async for chunk in stream.chunks()])


@pytest.fixture
async def storage(make_server: Callable[[], Awaitable[FakeServer]]) -> FakeServer:
    return await make_server()


def redirect(storage: FakeServer, target: str = SIGNED) -> Answer:
    return Answer(307, b"", {"Location": storage.url + target})


async def test_head_gives_the_size(ecr: Registry, server: FakeServer) -> None:
    server.tell("HEAD", PATH, Answer(200, CONTENT))
    assert await ecr.head_blob(REPO, DIGEST) == len(CONTENT)
    assert server.targets("GET") == []


async def test_a_size_that_no_blob_can_have_is_none(ecr: Registry, server: FakeServer) -> None:
    length = {"Content-Range": f"bytes 0-0/{2**63}"}
    server.tell("HEAD", PATH, Answer(307, b"", {"Location": PATH}))
    server.tell("GET", PATH, Answer(206, b"x", length))
    assert await ecr.head_blob(REPO, DIGEST) is None


async def test_head_of_a_missing_blob_names_it(ecr: Registry, server: FakeServer) -> None:
    server.tell("HEAD", PATH, Answer(404))
    with pytest.raises(BlobUnknown) as raised:
        await ecr.head_blob(REPO, DIGEST)
    assert DIGEST in raised.value.message
    assert REPO in raised.value.message


async def test_head_that_is_redirected_is_asked_by_get(
    plain: Registry, server: FakeServer, storage: FakeServer
) -> None:
    server.tell("HEAD", PATH, redirect(storage))
    server.tell("GET", PATH, redirect(storage))
    storage.tell(
        "GET", SIGNED, Answer(206, CONTENT[:1], {"Content-Range": f"bytes 0-0/{len(CONTENT)}"})
    )
    assert await plain.head_blob(REPO, DIGEST) == len(CONTENT)
    assert storage.targets("HEAD") == []


async def test_redirect_is_followed_byte_for_byte_and_without_credentials(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    server.tell("GET", PATH, redirect(storage))
    storage.tell("GET", SIGNED, Answer(200, CONTENT))
    async with ecr.open_blob(REPO, DIGEST) as stream:
        assert (stream.total, stream.start) == (len(CONTENT), 0)
        assert await read(stream) == CONTENT
    assert server.seen[-1].authorization is not None
    (seen,) = storage.seen
    assert seen.target == SIGNED
    assert seen.authorization is None
    assert "Cookie" not in seen.headers
    assert seen.headers["Host"] == storage.host
    assert seen.headers["Accept-Encoding"] == "identity"


async def test_relative_redirect_stays_and_keeps_credentials(
    open_: OpenRegistry, server: FakeServer
) -> None:
    registry = await open_(RegistryConfig(name="lan", url=server.url, username="u", password="p"))
    server.tell("GET", PATH, Answer(302, b"", {"Location": "/elsewhere?a=%2F"}))
    server.tell("GET", "/elsewhere?a=%2F", Answer(200, CONTENT))
    async with registry.open_blob(REPO, DIGEST) as stream:
        assert await read(stream) == CONTENT
    assert [seen.authorization for seen in server.seen] == ["Basic dTpw", "Basic dTpw"]


async def test_redirect_to_another_host_names_the_setting(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("GET", PATH, Answer(307, b"", {"Location": "http://cdn.example/x"}))
    with pytest.raises(BadGateway, match=r"cdn\.example.*redirect-hosts"):
        async with plain.open_blob(REPO, DIGEST):
            pass


async def test_endless_redirects_end(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, Answer(307, b"", {"Location": PATH}))
    with pytest.raises(BadGateway, match="over and over"):
        async with plain.open_blob(REPO, DIGEST):
            pass


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message>"),
        Answer(400, b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"),
    ],
)
async def test_expired_url_is_asked_for_again(
    ecr: Registry, server: FakeServer, storage: FakeServer, refusal: Answer
) -> None:
    server.tell("GET", PATH, redirect(storage, "/old"), redirect(storage, "/new"))
    storage.tell("GET", "/old", refusal)
    storage.tell("GET", "/new", Answer(200, CONTENT))
    async with ecr.open_blob(REPO, DIGEST) as stream:
        assert await read(stream) == CONTENT


async def test_storage_that_refuses_twice_is_a_bad_gateway_in_its_words(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    server.tell("GET", PATH, redirect(storage, "/x"))
    storage.tell(
        "GET", "/x", Answer(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message>")
    )
    with pytest.raises(BadGateway, match="AccessDenied, No"):
        async with ecr.open_blob(REPO, DIGEST):
            pass
    assert len(storage.seen) == 2


async def test_slow_down_is_waited_out(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    slow = Answer(503, b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
    server.tell("GET", PATH, redirect(storage, "/x"))
    storage.tell("GET", "/x", slow, slow, Answer(200, CONTENT))
    async with ecr.open_blob(REPO, DIGEST) as stream:
        assert await read(stream) == CONTENT


async def test_lasting_slow_down_is_told(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    slow = Answer(503, b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
    server.tell("GET", PATH, redirect(storage, "/x"))
    storage.tell("GET", "/x", slow)
    with pytest.raises(Unavailable, match="SlowDown, Reduce your rate"):
        async with ecr.open_blob(REPO, DIGEST):
            pass
    assert len(storage.seen) == QUICK.attempts


async def test_range_is_asked_for_and_given(plain: Registry, server: FakeServer) -> None:
    server.tell(
        "GET",
        PATH,
        Answer(206, CONTENT[100:200], {"Content-Range": f"bytes 100-199/{len(CONTENT)}"}),
    )
    async with plain.open_blob(REPO, DIGEST, start=100, end=200) as stream:
        assert (stream.total, stream.start, stream.end) == (len(CONTENT), 100, 200)
        assert await read(stream) == CONTENT[100:200]
    assert server.seen[0].headers["Range"] == "bytes=100-199"


async def test_range_to_the_end_survives_the_redirect(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    server.tell("GET", PATH, redirect(storage))
    total = len(CONTENT)
    storage.tell(
        "GET", SIGNED, Answer(206, CONTENT[5:], {"Content-Range": f"bytes 5-{total - 1}/{total}"})
    )
    async with ecr.open_blob(REPO, DIGEST, start=5) as stream:
        assert (stream.total, stream.start) == (total, 5)
        assert await read(stream) == CONTENT[5:]
    assert storage.seen[0].headers["Range"] == "bytes=5-"


async def test_range_that_is_ignored_begins_at_zero(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, Answer(200, CONTENT))
    async with plain.open_blob(REPO, DIGEST, start=100) as stream:
        assert (stream.total, stream.start) == (len(CONTENT), 0)
        assert await read(stream) == CONTENT


@pytest.mark.parametrize(
    "given",
    ["bytes 0-99/1000", "bytes 100-150/1000", "bytes */1000", "", f"bytes {'9' * 5000}-1/*"],
)
async def test_another_range_than_asked_for_is_refused(
    plain: Registry, server: FakeServer, given: str
) -> None:
    server.tell("GET", PATH, Answer(206, b"x" * 100, {"Content-Range": given}))
    with pytest.raises(BadGateway, match="range"):
        async with plain.open_blob(REPO, DIGEST, start=100, end=200):
            pass


async def test_range_beyond_the_end_is_416(
    ecr: Registry, server: FakeServer, storage: FakeServer
) -> None:
    server.tell("GET", PATH, redirect(storage, "/x"))
    storage.tell("GET", "/x", Answer(416, b"<Error><Code>InvalidRange</Code></Error>"))
    with pytest.raises(RangeInvalid):
        async with ecr.open_blob(REPO, DIGEST, start=10**9):
            pass


@pytest.mark.parametrize("count", [0, 1, len(CONTENT) - 1])
async def test_body_that_breaks_off_is_an_error_never_an_end(
    plain: Registry, server: FakeServer, count: int
) -> None:
    server.tell("GET", PATH, cut_after(count, CONTENT))
    async with plain.open_blob(REPO, DIGEST) as stream:
        with pytest.raises(BadGateway, match="of which"):
            await read(stream)


async def test_short_answer_to_a_range_is_an_error(plain: Registry, server: FakeServer) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=206, headers={"Content-Range": "bytes 0-99/1000"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x" * 50)
        return response

    server.tell("GET", PATH, answer)
    async with plain.open_blob(REPO, DIGEST, end=100) as stream:
        with pytest.raises(BadGateway, match="gave 50 bytes"):
            await read(stream)


async def test_upstream_that_falls_silent_is_an_error(
    open_: OpenRegistry, server: FakeServer
) -> None:
    silent = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        await silent.wait()
        return response

    server.tell("GET", PATH, answer)
    registry = await open_(
        RegistryConfig(name="lan", url=server.url), tuning=Tuning(idle=0.05, attempts=1)
    )
    async with registry.open_blob(REPO, DIGEST) as stream:
        with pytest.raises(GatewayTimeout, match="silent"):
            await read(stream)
    silent.set()


async def test_encoded_looking_bytes_are_passed_raw(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, Answer(200, b"\x1f\x8bnot really gzip", {"Content-Encoding": "gzip"}))
    async with plain.open_blob(REPO, DIGEST) as stream:
        assert await read(stream) == b"\x1f\x8bnot really gzip"


async def test_unreferenced_blob_keeps_the_words_of_ecr(ecr: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, Answer(404, ecr_error("BLOB_UNKNOWN", "The layer is inaccessible")))
    with pytest.raises(BlobUnknown, match="The layer is inaccessible"):
        async with ecr.open_blob(REPO, DIGEST):
            pass


async def test_stalled_readers_shut_nobody_out(open_: OpenRegistry, server: FakeServer) -> None:
    """More readers than a host has connections for requests stop reading; all else goes on."""
    big = b"x" * (4 << 20)
    server.tell("GET", PATH, Answer(200, big))
    server.tell("HEAD", PATH, Answer(200, big))
    registry = await open_(
        RegistryConfig(name="lan", url=server.url),
        tuning=Tuning(connections=2, idle=30, attempts=1),
    )
    async with asyncio.TaskGroup() as group:
        opened, leave = [asyncio.Event() for _ in range(6)], asyncio.Event()

        async def stall(ready: asyncio.Event) -> None:
            async with registry.open_blob(REPO, DIGEST):
                ready.set()
                await leave.wait()

        for ready in opened:
            group.create_task(stall(ready))
        async with asyncio.timeout(30):
            for ready in opened:
                await ready.wait()
            assert await registry.head_blob(REPO, DIGEST) == len(big)
            async with registry.open_blob(REPO, DIGEST) as stream:
                assert len(await read(stream)) == len(big)
        leave.set()


async def test_delete(plain: Registry, server: FakeServer) -> None:
    server.tell("DELETE", PATH, Answer(202))
    await plain.delete_blob(REPO, DIGEST)
