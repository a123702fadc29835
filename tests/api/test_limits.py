"""What one client may send and keep open: refused with a reason, counted, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import LimitSettings
from proxy.demo import registry_of
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from tests.api.pieces import send
from tests.api.pushing import MIB
from tests.running import Answer, Client, RunningProxy, running, settings_for, straight_to
from tests.test_metrics import samples

OTHER = "127.0.0.2"
LIMITS = LimitSettings(
    max_upload_size=1000, max_manifest_size=2048, max_uploads_per_client=2, body_timeout=3600.0
)
UPLOADS = "/v2/app/blobs/uploads/"


@pytest.fixture
async def limited(standin: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with limited_to(LIMITS, standin, tmp_path) as proxy:
        yield proxy


@asynccontextmanager
async def limited_to(
    limits: LimitSettings, standin: StandIn, tmp_path: Path
) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(replace(settings, limits=limits)) as proxy:
        yield proxy


@pytest.fixture
async def neighbour(limited: RunningProxy) -> AsyncIterator[Client]:
    """A client from another address."""
    client = Client(f"http://{limited.address}", source=OTHER)
    yield client
    await client.close()


async def reading(proxy: RunningProxy, name: str) -> float:
    answer = await proxy.client.ask("GET", "/metrics")
    return samples(answer.body)[f"ecr_cache_proxy_{name}"]


async def refused(proxy: RunningProxy, reason: str) -> float:
    return await reading(proxy, f"refusals_total reason={reason}")


async def begin(client: Client) -> str:
    answer = await client.ask("POST", UPLOADS)
    assert answer.status == 202, answer
    return answer.headers["Location"]


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def received(proxy: RunningProxy) -> list[Path]:
    """What there is of uploads and blobs on disk."""
    root = proxy.settings.cache_dir
    found = [p for part in ("blobs", "incoming", "uploads") for p in (root / part).rglob("*")]
    return [path for path in found if path.is_file()]


def assert_too_large(answer: Answer) -> None:
    assert answer.status == 413
    for word in (b"SIZE_INVALID", b"1000 bytes", b"max-upload-size", b"52,000 MiB"):
        assert word in answer.body


# Sizes


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_blob_that_says_it_is_too_large_is_refused_before_it_is_sent(
    limited: RunningProxy, standin: StandIn, method: str
) -> None:
    location = await begin(limited.client)
    assert (await limited.client.ask("PATCH", location, body=b"x" * 500)).status == 202
    query = f"?digest={Digest.of(b'')}" if method == "PUT" else ""
    head = f"{method} {location}{query} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 501\r\n\r\n"
    reply = await send(limited, head.encode())
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"SIZE_INVALID" in reply
    assert (await limited.client.ask("GET", location)).status == 404
    assert received(limited) == []
    assert [r.method for r in standin.requests if "/blobs/uploads/" in r.path] == ["POST", "DELETE"]
    assert await refused(limited, "upload-size") == 1
    assert await reading(limited, "uploads_open") == 0


async def test_a_single_post_that_is_too_large_asks_nobody(
    limited: RunningProxy, standin: StandIn
) -> None:
    digest = Digest.of(b"x" * 1001)
    head = f"POST {UPLOADS}?digest={digest} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 1001\r\n\r\n"
    assert (await send(limited, head.encode())).startswith(b"HTTP/1.1 413 ")
    assert not any(r.server == "registry" for r in standin.requests)
    assert received(limited) == []


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("room", [None, MIB])
async def test_a_blob_that_grows_too_large_ends_there(
    limited: RunningProxy, standin: StandIn, parts: int, room: int | None, tmp_path: Path
) -> None:
    """In one stream of unknown length, or over several requests; on disk, or straight through."""
    settings = replace(limited.settings, cache_dir=tmp_path / "small")
    async with running(replace(settings, cache_size=room or settings.cache_size)) as proxy:
        location = await begin(proxy.client)
        for _ in range(parts - 1):
            answer = await proxy.client.ask("PATCH", location, body=chunks(b"x" * 300))
            assert answer.status == 202
        last = chunks(*[b"x" * 100] * 20)
        assert_too_large(await proxy.client.ask("PATCH", location, body=last))
        gone = await proxy.client.ask("GET", location)
        assert (gone.status, b"BLOB_UPLOAD_UNKNOWN" in gone.body) == (404, True)
        assert received(proxy) == []
        assert await refused(proxy, "upload-size") == 1
        assert await reading(proxy, "uploads_open") == 0
    assert any(r.method == "DELETE" for r in standin.requests)
    assert not any(r.method == "PUT" for r in standin.requests)


async def test_a_blob_without_room_on_disk_ends_where_it_is_too_large(
    standin: StandIn, tmp_path: Path
) -> None:
    limits = replace(LIMITS, max_upload_size=12 * MIB)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(replace(settings, cache_size=4 * MIB, limits=limits)) as proxy:
        location = await begin(proxy.client)
        body = chunks(*[b"x" * MIB] * 13)
        assert (await proxy.client.ask("PATCH", location, body=body)).status == 413
        assert (await proxy.client.ask("GET", location)).status == 404
    assert standin.requests[-1].method == "DELETE"


async def test_a_blob_of_just_the_size_is_taken(limited: RunningProxy) -> None:
    await limited.client.push_blob("app", b"x" * 1000)
    location = await begin(limited.client)
    assert (await limited.client.ask("PATCH", location, body=chunks(b"y" * 1000))).status == 202
    done = await limited.client.ask("PUT", f"{location}?digest={Digest.of(b'y' * 1000)}")
    assert done.status == 201
    assert await refused(limited, "upload-size") == 0


@pytest.mark.parametrize("known", [True, False])
async def test_a_manifest_that_is_too_large_is_refused(
    limited: RunningProxy, standin: StandIn, known: bool
) -> None:
    for size, status in ((2048, 405), (2049, 413)):
        content = b"x" * size
        answer = await limited.client.ask(
            "PUT",
            "/v2/app/manifests/t",
            headers={"Content-Type": OCI_MANIFEST},
            body=content if known else chunks(content),
        )
        assert answer.status == status
    assert b"2048 bytes (max-manifest-size)" in answer.body
    assert sum(r.method == "PUT" for r in standin.requests) == 1
    assert await refused(limited, "manifest-size") == 1


# Bodies


@pytest.mark.parametrize("path", ["manifests/t", "blobs/uploads/"])
async def test_a_body_that_stops_coming_is_given_up(
    standin: StandIn, tmp_path: Path, path: str
) -> None:
    async with limited_to(LimitSettings(body_timeout=0.05), standin, tmp_path) as proxy:
        location, method = f"/v2/app/{path}", "PUT"
        if path.startswith("blobs"):
            location, method = await begin(proxy.client), "PATCH"
        head = f"{method} {location} HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = await send(proxy, head.encode(), b"9\r\nbroken")
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b"the body stopped coming" in reply
        assert b"body-timeout" in reply
        assert await refused(proxy, "body-timeout") == 1


# Uploads that are open


async def test_a_client_has_so_many_uploads_open_and_no_more(
    limited: RunningProxy, standin: StandIn, neighbour: Client
) -> None:
    first, second = await begin(limited.client), await begin(limited.client)
    asked = len(standin.requests)
    source = "?mount=" + Digest.of(b"some blob") + "&from=other"
    for query in ("", source, f"?digest={Digest.of(b'posted')}"):
        answer = await limited.client.ask("POST", UPLOADS + query, body=b"posted")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
        for words in (b"TOOMANYREQUESTS", b"2 uploads open", b"an hour", b"max-uploads-per-client"):
            assert words in answer.body
    assert len(standin.requests) == asked
    assert await refused(limited, "uploads-per-client") == 3
    # What one has open is nothing to another.
    await neighbour.push_blob("app", b"from next door")
    await begin(neighbour)
    assert await reading(limited, "uploads_open") == 3
    # One less makes room for one more, however it ends.
    assert (await limited.client.ask("DELETE", first)).status == 204
    third = await begin(limited.client)
    for location in (second, third):
        done = await limited.client.ask(
            "PUT", f"{location}?digest={Digest.of(b'taken')}", body=b"taken"
        )
        assert done.status == 201
    await limited.client.push_blob("app", b"another")
    wrong = await limited.client.ask(
        "PUT", f"{await begin(limited.client)}?digest={Digest.of(b'right')}", body=b"wrong"
    )
    assert wrong.status == 400
    assert await reading(limited, "uploads_open") == 1  # the neighbour's


@pytest.mark.parametrize(
    "query",
    ["", f"?digest={Digest.of(b'right')}", f"?mount={Digest.of(b'right')}&from=other", "?digest=x"],
)
async def test_a_post_that_fails_leaves_nothing_open(
    limited: RunningProxy, standin: StandIn, query: str
) -> None:
    for _ in range(3):
        standin.faults.add(Fault(server="registry", method="POST", status=403))
        answer = await limited.client.ask("POST", UPLOADS + query, body=b"wrong")
        assert answer.status in (400, 403)
    assert await reading(limited, "uploads_open") == 0
    assert received(limited) == []


async def test_a_blob_in_one_request_whose_client_hangs_up_leaves_nothing_open(
    limited: RunningProxy, standin: StandIn
) -> None:
    """It never got a location, so nobody could go on with it."""
    host, _, port = limited.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {UPLOADS}?digest={Digest.of(b'x' * 9)} HTTP/1.1\r\nHost: proxy\r\n"
    writer.write(head.encode() + b"Content-Length: 9\r\n\r\nxxx")
    await writer.drain()
    while await reading(limited, "uploads_open") == 0:
        pass
    writer.close()
    await writer.wait_closed()
    while await reading(limited, "uploads_open"):
        pass
    assert received(limited) == []


async def test_a_mount_that_is_made_opens_nothing(limited: RunningProxy, standin: StandIn) -> None:
    async with straight_to(standin) as client:
        digest = await client.push_blob("other", b"mountable")
    for _ in range(3):
        answer = await limited.client.ask("POST", f"{UPLOADS}?mount={digest}&from=other")
        if answer.status == 202:  # ECR's way unless it is set up to mount
            assert (await limited.client.ask("DELETE", answer.headers["Location"])).status == 204
    assert await reading(limited, "uploads_open") == 0


async def test_an_upload_of_before_a_restart_counts_for_whoever_began_it(
    limited: RunningProxy, neighbour: Client
) -> None:
    """Also where another client goes on with it."""
    locations = [await begin(limited.client) for _ in range(2)]
    for location in locations:
        assert (await limited.client.ask("PATCH", location, body=b"kept")).status == 202
    await limited.restart()
    later = Client(f"http://{limited.address}", source=OTHER)
    try:
        for location in locations:
            assert (await later.ask("GET", location)).status == 204
        assert (await limited.client.ask("POST", UPLOADS)).status == 429
        await begin(later)
    finally:
        await later.close()
