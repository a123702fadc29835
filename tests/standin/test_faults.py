"""Faults on demand: the stand-in's line 41."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from proxy.oci import Digest
from proxy.standin import Fault, StandIn
from proxy.standin.faults import Link
from tests.standin.client import CONFIG, REPOSITORY, Client
from tests.standin.conftest import Running

LAYER = bytes(range(256)) * 2000
TAGS = f"/v2/{REPOSITORY}/tags/list"


@pytest.fixture
async def url(client: Client) -> str:
    """Where a layer's bytes are."""
    await client.push_image(LAYER)
    return await client.blob_url(Digest.of(LAYER))


async def stream(client: Client, url: str) -> tuple[bytes, bool]:
    """As much of a body as comes, and whether it came to its end."""
    received = bytearray()
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(url, encoded=True)) as response,
    ):
        try:
            async for chunk in response.content.iter_any():
                received += chunk
        except (aiohttp.ClientPayloadError, ConnectionError):
            return bytes(received), False
    return bytes(received), True


@pytest.mark.parametrize("at", [0, 1, 1000, len(LAYER) - 1])
async def test_a_body_is_cut_after_so_many_bytes(
    client: Client, standin: StandIn, url: str, at: int
) -> None:
    standin.faults.add(Fault(server="s3", cut_after=at))
    assert await stream(client, url) == (LAYER[:at], False)
    assert await stream(client, url) == (LAYER, True)


async def test_a_body_is_corrupted_at_one_byte(client: Client, standin: StandIn, url: str) -> None:
    standin.faults.add(Fault(server="s3", corrupt_at=300_000))
    received, whole = await stream(client, url)
    assert whole
    assert [i for i in range(len(LAYER)) if received[i] != LAYER[i]] == [300_000]


async def test_a_manifest_is_cut_and_corrupted_as_well(client: Client, standin: StandIn) -> None:
    content = await client.push_image(b"layer")
    path = f"/v2/{REPOSITORY}/manifests/latest"
    standin.faults.add(Fault(path="/manifests/", method="GET", corrupt_at=0))
    assert (await client.ask("GET", path)).body == bytes([content[0] ^ 0xFF]) + content[1:]
    standin.faults.add(Fault(path="/manifests/", method="GET", cut_after=10))
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.ask("GET", path)


async def test_a_connection_is_reset(client: Client, standin: StandIn) -> None:
    standin.faults.add(Fault(server="registry", reset=True))
    with pytest.raises(aiohttp.ClientOSError):
        await client.ask("GET", TAGS)
    assert (await client.ask("GET", TAGS)).status == 200
    assert [each.status for each in standin.requests] == [0, 200]


async def test_a_request_is_reset_in_the_middle_of_its_body(
    client: Client, standin: StandIn
) -> None:
    location = await client.start()
    standin.faults.add(Fault(method="PATCH", request_cut=1000))
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 2000
        await sent.wait()  # never: only the connection's end ends this request

    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await client.ask("PATCH", location, body=body())
    assert standin.requests[-1].request_bytes == 1000
    # What had arrived stays: the stream cannot be replayed in the same upload.
    answer = await client.ask("PATCH", location, headers={"Content-Range": "0-0"}, body=b"x")
    assert answer.error[2] == "First byte of the layer part is 0 instead of 1000"


async def test_a_reply_is_lost_after_the_work_is_done(client: Client, standin: StandIn) -> None:
    location = await client.start()
    digest = Digest.of(b"layer")
    standin.faults.add(Fault(method="PUT", lose_reply=True))
    with pytest.raises(aiohttp.ClientOSError):
        await client.ask("PUT", f"{location}?digest={digest}", body=b"layer")
    assert (await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")).status == 200


@pytest.mark.parametrize("status", [500, 503])
async def test_an_outage_lasts_as_many_requests_as_asked_for(
    client: Client, standin: StandIn, status: int
) -> None:
    standin.faults.add(Fault(server="registry", status=status, times=2, skip=1))
    answers = [(await client.ask("GET", TAGS)).status for _ in range(4)]
    assert answers == [200, status, status, 200]


async def test_an_outage_lasts_until_it_is_taken_back(client: Client, standin: StandIn) -> None:
    armed = standin.faults.add(Fault(status=503, times=None, headers={"Retry-After": "1"}))
    answers = [await client.ask("GET", TAGS) for _ in range(3)]
    assert {answer.status for answer in answers} == {503}
    assert answers[0].headers["Retry-After"] == "1"
    assert armed.hits == 3
    standin.faults.remove(armed)
    assert (await client.ask("GET", TAGS)).status == 200


async def test_an_outage_speaks_each_servers_language(
    client: Client, standin: StandIn, url: str
) -> None:
    standin.faults.add(Fault(status=503, times=2))
    assert (await client.ask("GET", TAGS)).error[:2] == (503, "UNKNOWN")
    answer = await client.ask("GET", url, anonymous=True)
    assert answer.status == 503
    assert b"<Code>SlowDown</Code>" in answer.body
    standin.faults.add(Fault(status=429))
    assert (await client.ask("GET", TAGS)).error == (429, "TOOMANYREQUESTS", "Rate exceeded")


async def test_an_answer_may_be_anything(client: Client, standin: StandIn) -> None:
    standin.faults.add(Fault(status=200, body="<html>", headers={"Content-Type": "text/html"}))
    answer = await client.ask("GET", TAGS)
    assert (answer.status, answer.body) == (200, b"<html>")
    assert answer.headers["Content-Type"] == "text/html"


async def test_a_fault_meets_what_it_names_and_nothing_else(
    client: Client, standin: StandIn, url: str
) -> None:
    standin.faults.add(Fault(server="s3", status=500))
    standin.faults.add(Fault(method="HEAD", status=500))
    standin.faults.add(Fault(path=r"/manifests/v\d+$", status=500))
    assert (await client.ask("GET", TAGS)).status == 200
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/v1x")).status == 404
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/v1")).status == 500
    assert (await client.ask("HEAD", f"/v2/{REPOSITORY}/manifests/latest")).status == 500
    assert (await client.ask("GET", url, anonymous=True)).status == 500


async def test_a_request_is_held_until_it_is_let_go(client: Client, standin: StandIn) -> None:
    held = standin.faults.add(Fault(path="/tags/", hold=True))
    asking = asyncio.create_task(client.ask("GET", TAGS))
    await held.reached.wait()
    assert not asking.done()
    assert standin.requests[-1].status is None
    held.release()
    assert (await asking).status == 200


async def test_a_body_is_held_in_the_middle_until_it_is_let_go(
    client: Client, standin: StandIn, url: str
) -> None:
    held = standin.faults.add(Fault(server="s3", hold_at=1000))
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(url, encoded=True)) as response,
    ):
        assert await response.content.readexactly(1000) == LAYER[:1000]
        await held.reached.wait()
        held.release()
        assert await response.content.read() == LAYER[1000:]


async def test_a_client_that_leaves_is_no_error(client: Client, standin: StandIn, url: str) -> None:
    for fault in (Fault(server="s3", hold_at=1000), Fault(server="s3", hold=True)):
        held = standin.faults.add(fault)
        leaving = asyncio.create_task(stream(client, url))
        await held.reached.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        held.release()
    location = await client.start()
    got_through = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        got_through.set()
        await asyncio.Event().wait()

    leaving_too = asyncio.create_task(client.ask("PATCH", location, body=body()))
    await got_through.wait()
    leaving_too.cancel()
    await asyncio.gather(leaving_too, return_exceptions=True)
    assert await stream(client, url) == (LAYER, True)


async def test_closing_lets_go_of_what_is_held(client: Client, standin: StandIn) -> None:
    held = standin.faults.add(Fault(hold=True))
    asking = asyncio.create_task(client.ask("GET", TAGS))
    await held.reached.wait()
    await standin.close()
    assert (await asking).status == 200


async def test_latency_and_bandwidth_take_their_time(
    client: Client, standin: StandIn, url: str
) -> None:
    begun = time.monotonic()
    standin.faults.add(Fault(path="/tags/", latency=0.1))
    await client.ask("GET", TAGS)
    assert time.monotonic() - begun >= 0.1
    begun = time.monotonic()
    standin.faults.add(Fault(server="s3", bandwidth=len(LAYER) * 5))
    assert await stream(client, url) == (LAYER, True)
    assert time.monotonic() - begun >= 0.2
    begun = time.monotonic()
    standin.faults.add(Fault(method="PUT", bandwidth=1_000_000))
    await client.push_blob(b"x" * 200_000)
    assert time.monotonic() - begun >= 0.2


async def test_an_uplink_is_shared_by_all_who_push(client: Client, standin: StandIn) -> None:
    """Five bodies of 40 kB at 1 MB/s take 0.2 s together, at once as in turn."""
    uplink = standin.faults.add(Fault(method="PUT", times=None, uplink=1_000_000))
    begun = time.monotonic()
    await asyncio.gather(*(client.push_blob(b"%d" % n * 40_000) for n in range(5)))
    assert time.monotonic() - begun >= 0.2
    standin.faults.remove(uplink)
    link, now = Link(1000), 5.0
    assert link.delay(100, now) == pytest.approx(0.1)
    assert link.delay(300, now) == pytest.approx(0.4)
    assert link.delay(100, now + 1) == pytest.approx(0.1)  # what was free is not made up for


async def test_a_body_comes_without_its_length(client: Client, standin: StandIn, url: str) -> None:
    standin.faults.add(Fault(server="s3", no_length=True))
    answer = await client.ask("GET", url, anonymous=True)
    assert "Content-Length" not in answer.headers
    assert answer.body == LAYER
    standin.faults.add(Fault(server="s3", no_length=True, cut_after=10))
    assert await stream(client, url) == (LAYER[:10], False)


async def test_a_range_is_ignored(client: Client, standin: StandIn, url: str) -> None:
    standin.faults.add(Fault(server="s3", ignore_range=True))
    answer = await client.ask("GET", url, headers={"Range": "bytes=5-9"}, anonymous=True)
    assert (answer.status, answer.body) == (200, LAYER)


async def test_faults_that_meet_in_one_request_add_up(
    client: Client, standin: StandIn, url: str
) -> None:
    standin.faults.add(Fault(server="s3", corrupt_at=2))
    standin.faults.add(Fault(server="s3", cut_after=4))
    received = bytes([0, 1, 2 ^ 0xFF, 3])
    assert await stream(client, url) == (received, False)


async def test_requests_are_recorded_in_the_order_they_came_in(
    client: Client, standin: StandIn, url: str
) -> None:
    standin.forget_requests()
    await client.push_blob(b"12345")
    await client.ask("GET", url, headers={"Range": "bytes=0-9"}, anonymous=True)
    start, put, get = standin.requests
    assert (start.server, start.method, start.status) == ("registry", "POST", 202)
    assert (put.method, put.status, put.request_bytes) == ("PUT", 201, 5)
    assert (get.server, get.path, get.reply_bytes) == ("s3", "/" + url.split("/", 3)[3], 10)
    assert get.header("authorization") is None
    assert put.header("authorization") is not None


async def test_a_request_after_an_answer_has_a_greater_number_than_its_end(
    client: Client, standin: StandIn
) -> None:
    standin.forget_requests()
    held = standin.faults.add(Fault(method="PUT", hold=True))
    first = asyncio.create_task(client.push_blob(b"first"))
    await held.reached.wait()
    await client.push_blob(b"second")
    held.release()
    await first
    await client.ask("GET", TAGS)
    _, of_first, begun, of_second, after = standin.requests
    assert None not in (of_first.ended, begun.ended, of_second.ended, after.ended)
    assert of_first.number < begun.number < (begun.ended or 0) < of_second.number
    assert of_second.number < (of_second.ended or 0) < (of_first.ended or 0) < after.number


async def test_what_a_request_stored_is_recorded_though_its_answer_was_lost(
    client: Client, standin: StandIn
) -> None:
    manifest = await client.push_image(LAYER)
    standin.faults.add(Fault(method="PUT", lose_reply=True))
    with pytest.raises(aiohttp.ClientError):
        await client.push_blob(b"lost")
    standin.faults.add(Fault(method="PUT", status=503))
    assert (await client.put_manifest(manifest)).status == 503
    stored = [(each.stored, each.status) for each in standin.requests if each.method == "PUT"]
    assert stored[-3:] == [(Digest.of(manifest), 201), (Digest.of(b"lost"), 0), ("", 503)]
    assert {stored for stored, _ in stored[:-3]} == {Digest.of(LAYER), Digest.of(CONFIG)}


async def test_only_so_many_requests_are_remembered(running: Running) -> None:
    async with running(recorded_requests=2) as client:
        for n in (1, 2, 3):
            await client.ask("GET", f"{TAGS}?n={n}")
        assert [each.path[-1] for each in client.standin.requests] == ["2", "3"]
