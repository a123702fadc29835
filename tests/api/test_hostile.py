"""What no client should send: refused in the registry's words, without a fault or a wait."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from proxy.standin import Fault, StandIn
from tests.api.pieces import send
from tests.running import RunningProxy

PUT = b"PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n"


@pytest.mark.parametrize("named", [r"a\u0000b", r"a\r\nX: y", r"\ud800", "é", "a b", ""])
async def test_a_media_type_that_can_be_no_header_is_refused(
    proxy: RunningProxy, named: str
) -> None:
    body = f'{{"mediaType":"{named}"}}'.encode()
    reply = await send(proxy, PUT + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"MANIFEST_INVALID" in reply


async def test_a_body_is_taken_as_it_is_whatever_coding_it_claims(proxy: RunningProxy) -> None:
    """Digests are of the bytes that were sent: nothing is decoded, and nothing can fail to be."""
    reply = await send(
        proxy,
        PUT + b"Content-Type: application/vnd.oci.image.index.v1+json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    )
    assert reply.startswith(b"HTTP/1.1 405 ")
    assert b"Invalid JSON syntax" in reply


@pytest.mark.parametrize("path", ["manifests/t", "blobs/uploads/"])
async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(
    proxy: RunningProxy, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO)
    location, method = f"/v2/app/{path}", "PUT"
    if path.startswith("blobs"):
        location = (await proxy.client.ask("POST", location)).headers["Location"]
        method = "PATCH"
    caplog.clear()
    host, _, port = proxy.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"{method} {location} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode() + b"half")
    await writer.drain()
    await proxy.client.ask("GET", "/livez")
    writer.close()
    await writer.wait_closed()
    while not any(f'"{method} ' in record.getMessage() for record in caplog.records):
        await proxy.client.ask("GET", "/livez")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_clients_long_credentials_are_no_error(proxy: RunningProxy) -> None:
    """A token of ECR's has no bound, and who has logged in with one sends it here."""
    got = await proxy.client.ask("GET", "/v2/", headers={"Authorization": f"Basic {'A' * 20_000}"})
    assert got.status == 200


async def test_words_of_upstream_that_are_no_utf8_are_no_fault(
    proxy: RunningProxy, standin: StandIn
) -> None:
    said = r'{"errors":[{"code":"UNSUPPORTED","message":"half a \ud800 pair"}]}'
    standin.faults.add(Fault(server="registry", path="/tags/list", status=405, body=said))
    got = await proxy.client.ask("GET", "/v2/app/tags/list")
    assert got.status == 405
    assert json.loads(got.body)["errors"][0]["message"] == "half a pair"
