"""Where a blob's bytes come from: ECR.md §3 "GET blob", the stand-in's lines 14 and 15."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest
from yarl import URL

from proxy.oci import Digest
from proxy.standin import Fault, StandIn, StandInSettings
from proxy.standin.s3 import parse_range
from tests.standin.client import REPOSITORY, Answer, Client
from tests.standin.conftest import Running

LAYER = bytes(range(256)) * 40


async def pushed(client: Client) -> str:
    await client.push_image(LAYER)
    return await client.blob_url(Digest.of(LAYER))


async def download(client: Client, url: str, **headers: str) -> Answer:
    return await client.ask("GET", url, headers=headers, anonymous=True)


async def test_get_blob_redirects_to_another_host_and_port_without_any_bytes(
    client: Client, standin: StandIn
) -> None:
    await client.push_image(LAYER)
    answer = await client.ask("GET", f"/v2/{REPOSITORY}/blobs/{Digest.of(LAYER)}")
    assert (answer.status, answer.body) == (307, b"")
    there, here = URL(answer.location), URL(standin.url)
    assert there.host != here.host
    assert there.port != here.port
    assert there.query["X-Amz-SignedHeaders"] == "host"
    assert there.query["X-Amz-Expires"] == "3600"
    got = await download(client, answer.location)
    assert (got.status, got.body) == (200, LAYER)


async def test_an_authorization_header_is_400_at_s3(client: Client) -> None:
    answer = await client.ask("GET", await pushed(client))
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/xml"
    assert b"<Code>InvalidArgument</Code>" in answer.body
    assert b"Only one auth mechanism allowed" in answer.body


@pytest.mark.parametrize(
    ("text", "status", "span"),
    [
        ("bytes=10-19", 206, (10, 20)),
        ("bytes=10000-", 206, (10000, 10240)),
        ("bytes=0-", 206, (0, 10240)),
        ("bytes=-5", 206, (10235, 10240)),
        ("bytes=10000-99999", 206, (10000, 10240)),
        ("bytes=10240-", 416, None),
        ("bytes=20-10", 200, (0, 10240)),
        ("bytes=0-1,4-5", 200, (0, 10240)),
        ("lines=1-2", 200, (0, 10240)),
        ("bytes=" + "1" * 5000 + "-", 200, (0, 10240)),
    ],
)
@pytest.mark.parametrize("slowly", [False, True])
async def test_a_range_is_206_and_an_unsatisfiable_one_416(
    client: Client, text: str, status: int, span: tuple[int, int] | None, slowly: bool
) -> None:
    url = await pushed(client)
    if slowly:  # the other way out, without sendfile, must say the same
        client.standin.faults.add(Fault(server="s3", bandwidth=1 << 30))
    answer = await download(client, url, Range=text)
    assert answer.status == status
    if span is None:
        assert b"<Code>InvalidRange</Code>" in answer.body
        assert answer.headers["Content-Range"] == "bytes */10240"
        return
    assert answer.body == LAYER[span[0] : span[1]]
    assert answer.headers["Content-Length"] == str(len(answer.body))
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/10240"


def test_a_range_of_no_bytes_from_the_end_cannot_be_satisfied() -> None:
    assert parse_range("bytes=-0", 10) == (10, 10)


async def test_head_of_a_url_signed_for_get_is_403(client: Client) -> None:
    answer = await client.ask("HEAD", await pushed(client), anonymous=True)
    assert (answer.status, answer.body) == (403, b"")


async def test_another_host_header_breaks_the_signature(client: Client) -> None:
    answer = await download(client, await pushed(client), Host="localhost:1")
    assert answer.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in answer.body


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda url: str(URL(url)), id="normalised by yarl"),
        pytest.param(lambda url: url.replace("%2F", "%2f"), id="lower-case escapes"),
        pytest.param(lambda url: url.replace("&X-Amz-Expires=3600", ""), id="a parameter less"),
        pytest.param(lambda url: url.replace("=3600", "=9999"), id="a longer life"),
        pytest.param(lambda url: url + "&more=1", id="a parameter more"),
        pytest.param(lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"), id="a signature"),
    ],
)
async def test_a_url_that_is_not_sent_byte_for_byte_is_403(
    client: Client, change: Callable[[str], str]
) -> None:
    url = await pushed(client)
    assert change(url) != url
    answer = await download(client, change(url))
    assert answer.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in answer.body


async def test_a_url_without_a_signature_is_403(client: Client) -> None:
    answer = await download(client, (await pushed(client)).partition("?")[0])
    assert answer.status == 403
    assert b"<Code>AccessDenied</Code>" in answer.body


async def test_an_expired_url_is_403_and_a_new_one_works(client: Client) -> None:
    url = await pushed(client)
    client.standin.state.clock.advance(3601)
    answer = await download(client, url)
    assert answer.status == 403
    assert b"Request has expired" in answer.body
    assert (await download(client, await client.blob_url(Digest.of(LAYER)))).body == LAYER


async def test_an_expired_url_can_be_400_expired_token(running: Running) -> None:
    async with running(expired_url_status=400, url_lifetime=60) as client:
        url = await pushed(client)
        client.standin.state.clock.advance(61)
        answer = await download(client, url)
        assert answer.status == 400
        assert b"<Code>ExpiredToken</Code>" in answer.body


async def test_s3_throttles_with_503_slow_down(client: Client) -> None:
    url = await pushed(client)
    client.standin.state.s3_slow_down = True
    answer = await download(client, url)
    assert answer.status == 503
    assert b"<Code>SlowDown</Code>" in answer.body
    client.standin.state.s3_slow_down = False
    assert (await download(client, url)).status == 200


async def test_a_blob_taken_away_behind_everyones_back_is_gone_everywhere(
    client: Client, standin: StandIn
) -> None:
    url = await pushed(client)
    standin.state.delete_blob(REPOSITORY, Digest.of(LAYER))
    answer = await download(client, url)
    assert answer.status == 404
    assert b"<Code>NoSuchKey</Code>" in answer.body
    head = await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{Digest.of(LAYER)}")
    assert head.status == 404
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/latest")).status == 200


async def test_away_from_127_0_0_1_the_bytes_are_at_the_host_that_the_client_used() -> None:
    settings = StandInSettings(unreferenced_blob_status=200)
    async with (
        StandIn(settings, listen="127.0.0.3") as standin,
        aiohttp.ClientSession() as session,
    ):
        client = Client(standin, session)
        digest = standin.state.put_blob(REPOSITORY, LAYER)
        url = URL(await client.blob_url(digest))
        assert (url.host, url.port) == ("127.0.0.3", standin.s3_port)
        assert url.port != URL(standin.url).port
