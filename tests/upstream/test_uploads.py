"""Uploads: locations byte for byte, chunks with offsets, bodies that can be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.errors import (
    BadGateway,
    BlobUploadInvalid,
    BlobUploadUnknown,
    GatewayTimeout,
    Internal,
    NameUnknown,
    Unavailable,
    UpstreamRefusal,
)
from proxy.oci import Digest, RepositoryName
from proxy.upstream import Body, Registry, RegistryConfig, Tuning, Upload
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import EXPIRED, Answer, FakeAws, FakeServer, ecr_error, hang_up

REPO = RepositoryName("team/app")
START = f"/v2/{REPO}/blobs/uploads/"
CONTENT = b"0123456789" * 1000
DIGEST = Digest.of(CONTENT)
ESCAPED = DIGEST.replace(":", "%3A")
UPLOAD = f"/v2/{REPO}/blobs/uploads/uuid"


def body_of(*chunks: bytes) -> Body:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return body


async def test_start_gives_the_location_as_it_came(ecr: Registry, server: FakeServer) -> None:
    location = f"{server.url}{UPLOAD}?b=%2f&a=x+y%20z"
    server.tell("POST", START, Answer(202, b"", {"Location": location, "Range": "0-0"}))
    assert await ecr.start_upload(REPO) == Upload(location, 5 * 1024 * 1024)
    assert server.seen[0].headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("location", "expected"),
    [("/v2/x?_state=%3D", "/v2/x?_state=%3D"), ("other?y", f"{START}other?y")],
)
async def test_relative_location_becomes_absolute(
    plain: Registry, server: FakeServer, location: str, expected: str
) -> None:
    server.tell("POST", START, Answer(202, b"", {"Location": location}))
    assert await plain.start_upload(REPO) == Upload(server.url + expected, 0)


@pytest.mark.parametrize(("text", "least"), [("1024", 1024), ("-1", 0), ("9" * 5000, 0)])
async def test_least_chunk_is_what_upstream_says(
    plain: Registry, server: FakeServer, text: str, least: int
) -> None:
    headers = {"Location": UPLOAD, "OCI-Chunk-Min-Length": text}
    server.tell("POST", START, Answer(202, b"", headers))
    upload = await plain.start_upload(REPO)
    assert upload is not None
    assert upload.min_part == least


async def test_other_algorithm_is_announced(plain: Registry, server: FakeServer) -> None:
    target = f"{START}?digest-algorithm=sha512"
    server.tell("POST", target, Answer(202, b"", {"Location": UPLOAD}))
    assert await plain.start_upload(REPO, algorithm="sha512") is not None


async def test_mount_that_is_taken_and_one_that_is_not(ecr: Registry, server: FakeServer) -> None:
    target = f"{START}?mount={ESCAPED}&from=other%2Fimage"
    server.tell(
        "POST",
        target,
        Answer(201, b"", {"Location": "/v2/x"}),
        Answer(202, b"", {"Location": UPLOAD}),
    )
    source = RepositoryName("other/image")
    assert await ecr.start_upload(REPO, mount=DIGEST, source=source) is None
    assert await ecr.start_upload(REPO, mount=DIGEST, source=source) is not None


async def test_start_without_a_location_is_a_bad_gateway(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("POST", START, Answer(202))
    with pytest.raises(BadGateway, match="without a Location"):
        await plain.start_upload(REPO)


async def test_missing_repository_that_drops_the_connection(
    ecr: Registry, server: FakeServer
) -> None:
    server.tell("POST", START, hang_up)
    with pytest.raises(NameUnknown, match="team/app: does the repository exist"):
        await ecr.start_upload(REPO)


async def test_connection_dropped_by_accident_is_tried_again(
    ecr: Registry, server: FakeServer
) -> None:
    server.tell("POST", START, hang_up, Answer(202, b"", {"Location": UPLOAD}))
    assert await ecr.start_upload(REPO) is not None


@pytest.mark.parametrize("status", [201, 202, 204])
async def test_chunk_says_where_it_belongs(ecr: Registry, server: FakeServer, status: int) -> None:
    """ECR answers 201 (ECR.md §4), with a Range header that is wrong."""
    answer = Answer(status, b"", {"Location": f"{server.url}{UPLOAD}?2", "Range": "0-0"})
    server.tell("PATCH", f"{UPLOAD}?1", answer)
    upload = Upload(f"{server.url}{UPLOAD}?1", 7)
    sent = await ecr.send_chunk(upload, offset=100, length=10, body=body_of(b"01234", b"56789"))
    assert sent == Upload(f"{server.url}{UPLOAD}?2", 7)
    (seen,) = server.seen
    assert seen.body == b"0123456789"
    assert seen.headers["Content-Range"] == "100-109"
    assert seen.headers["Content-Length"] == "10"
    assert seen.headers["Content-Type"] == "application/octet-stream"
    assert "Transfer-Encoding" not in seen.headers
    assert seen.authorization is not None


async def test_chunk_without_a_new_location_keeps_the_old(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("PATCH", UPLOAD, Answer(202))
    upload = Upload(server.url + UPLOAD)
    assert await plain.send_chunk(upload, offset=0, length=1, body=body_of(b"x")) == upload


async def test_wrong_offset_keeps_its_status_and_words(ecr: Registry, server: FakeServer) -> None:
    said = "First byte of the layer part is 0 instead of 11304960"
    server.tell("PATCH", UPLOAD, Answer(416, ecr_error("BLOB_UPLOAD_INVALID", said)))
    with pytest.raises(UpstreamRefusal) as raised:
        await ecr.send_chunk(Upload(server.url + UPLOAD), offset=0, length=1, body=body_of(b"x"))
    assert (raised.value.wire_status, raised.value.message) == (416, said)


async def test_body_is_sent_again_after_a_refresh_and_after_throttling(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    server.tell("POST", START, Answer(202, b"", {"Location": UPLOAD}))
    server.tell("PATCH", UPLOAD, EXPIRED, Answer(429), Answer(201))
    upload = await ecr.start_upload(REPO)
    assert upload is not None
    await ecr.send_chunk(upload, offset=0, length=len(CONTENT), body=body_of(CONTENT))
    chunks = [seen for seen in server.seen if seen.method == "PATCH"]
    assert [seen.body for seen in chunks] == [CONTENT] * 3
    assert [seen.authorization for seen in chunks] == [
        FakeAws.header(1),
        FakeAws.header(2),
        FakeAws.header(2),
    ]


async def test_refusal_before_the_body_was_read_is_heard(
    ecr: Registry, server: FakeServer, aws: FakeAws
) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, text="Not Authorized\n")

    content = b"x" * (8 << 20)
    server.tell("POST", START, Answer(202, b"", {"Location": UPLOAD}))
    server.tell("PATCH", UPLOAD, refuse, Answer(201))
    upload = await ecr.start_upload(REPO)
    assert upload is not None
    await ecr.send_chunk(upload, offset=0, length=len(content), body=body_of(content))
    assert server.seen[-1].body == content
    assert aws.tokens == 2


@pytest.mark.parametrize("trouble", [Answer(500), Answer(503), hang_up])
async def test_chunk_of_unknown_fate_is_not_sent_twice(
    ecr: Registry, server: FakeServer, trouble: Answer
) -> None:
    server.tell("PATCH", UPLOAD, trouble)
    with pytest.raises((BadGateway, Unavailable)):
        await ecr.send_chunk(
            Upload(server.url + UPLOAD), offset=0, length=len(CONTENT), body=body_of(CONTENT)
        )
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (UPLOAD, f"{UPLOAD}?digest={ESCAPED}"),
        (f"{UPLOAD}?z=%2f&a=b+c", f"{UPLOAD}?z=%2f&a=b+c&digest={ESCAPED}"),
    ],
)
async def test_finish_appends_the_digest_to_the_location(
    ecr: Registry, server: FakeServer, location: str, expected: str
) -> None:
    server.tell("PUT", expected, Answer(201))
    upload = Upload(server.url + location)
    await ecr.finish_upload(upload, DIGEST, offset=len(CONTENT), length=0)
    await ecr.finish_upload(upload, DIGEST, offset=0, length=len(CONTENT), body=body_of(CONTENT))
    await ecr.finish_upload(upload, DIGEST, offset=9000, length=3, body=body_of(b"end"))
    closing, whole, last = server.seen
    assert (closing.body, closing.headers["Content-Length"]) == (b"", "0")
    assert whole.body == CONTENT
    assert "Content-Range" not in whole.headers
    assert (last.body, last.headers["Content-Range"]) == (b"end", "9000-9002")


async def test_refused_finish_keeps_the_words_of_ecr(ecr: Registry, server: FakeServer) -> None:
    said = "None of the provided layer digests match the calculated layer digest"
    target = f"{UPLOAD}?digest={ESCAPED}"
    server.tell("PUT", target, Answer(400, ecr_error("BLOB_UPLOAD_INVALID", said)))
    with pytest.raises(BlobUploadInvalid, match=said):
        await ecr.finish_upload(Upload(server.url + UPLOAD), DIGEST, offset=1, length=0)


async def test_layer_that_exists_already_is_what_was_wanted(
    ecr: Registry, server: FakeServer
) -> None:
    said = "The image layer already exists in the associated repository."
    target = f"{UPLOAD}?digest={ESCAPED}"
    server.tell("PUT", target, Answer(400, ecr_error("LAYER_ALREADY_EXISTS", said)))
    await ecr.finish_upload(Upload(server.url + UPLOAD), DIGEST, offset=1, length=0)


@pytest.mark.parametrize("status", [202, 204, 404, 405])
async def test_cancel_does_not_care_what_there_was(
    ecr: Registry, server: FakeServer, status: int
) -> None:
    server.tell("DELETE", UPLOAD, Answer(status))
    await ecr.cancel_upload(Upload(server.url + UPLOAD))


async def test_lost_upload_is_told(ecr: Registry, server: FakeServer) -> None:
    server.tell("PATCH", UPLOAD, Answer(404, ecr_error("BLOB_UPLOAD_UNKNOWN", "no such upload")))
    with pytest.raises(BlobUploadUnknown):
        await ecr.send_chunk(Upload(server.url + UPLOAD), offset=0, length=1, body=body_of(b"x"))


async def test_location_on_another_host_is_refused(ecr: Registry) -> None:
    with pytest.raises(BadGateway, match="redirect-hosts"):
        await ecr.send_chunk(
            Upload("http://evil.example/x"), offset=0, length=1, body=body_of(b"x")
        )


@pytest.mark.parametrize("chunks", [(b"too", b"long"), (b"short",), ()])
async def test_body_of_another_length_is_never_left_hanging(
    plain: Registry, server: FakeServer, chunks: tuple[bytes, ...]
) -> None:
    server.tell("PATCH", UPLOAD, Answer(202))
    async with asyncio.timeout(30):
        with pytest.raises(Internal, match="a body of 6 bytes had"):
            await plain.send_chunk(
                Upload(server.url + UPLOAD), offset=0, length=6, body=body_of(*chunks)
            )


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError("disk gone"), Internal), (Unavailable("evicted"), Unavailable)],
)
async def test_body_that_fails_is_no_fault_of_upstream(
    plain: Registry, server: FakeServer, error: Exception, expected: type[Exception]
) -> None:
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            raise error
        finally:
            closed.set()

    server.tell("PATCH", UPLOAD, Answer(202))
    with pytest.raises(expected, match=str(error)):
        await plain.send_chunk(Upload(server.url + UPLOAD), offset=0, length=6, body=body)
    assert closed.is_set()


async def test_peer_that_stops_reading_is_noticed(open_: OpenRegistry, server: FakeServer) -> None:
    leave = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse:
        await leave.wait()
        return web.Response()

    server.tell("PATCH", UPLOAD, stall)
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=Tuning(idle=0.2))
    megabyte, count = b"x" * (1 << 20), 64

    async def body() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield megabyte

    async with asyncio.timeout(30):
        with pytest.raises(GatewayTimeout, match="silent"):
            await registry.send_chunk(
                Upload(server.url + UPLOAD), offset=0, length=count << 20, body=body
            )
    leave.set()


async def test_source_that_makes_us_wait_is_no_stalled_peer(
    open_: OpenRegistry, server: FakeServer
) -> None:
    server.tell("PATCH", UPLOAD, Answer(202))
    registry = await open_(RegistryConfig(name="lan", url=server.url), tuning=Tuning(idle=0.05))
    later = asyncio.get_running_loop().time() + 0.2

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        passed = asyncio.Event()
        asyncio.get_running_loop().call_at(later, passed.set)
        await passed.wait()
        yield b"def"

    await registry.send_chunk(Upload(server.url + UPLOAD), offset=0, length=6, body=body)
    assert server.seen[0].body == b"abcdef"


async def test_cancelled_chunk_closes_its_body(plain: Registry, server: FakeServer) -> None:
    reached, closed = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            reached.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    server.tell("PATCH", UPLOAD, Answer(202))
    sending = asyncio.create_task(
        plain.send_chunk(Upload(server.url + UPLOAD), offset=0, length=6, body=body)
    )
    await reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    async with asyncio.timeout(30):
        await closed.wait()
