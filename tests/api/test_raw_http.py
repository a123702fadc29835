"""What is no request, or can be read in two ways: refused, and nothing behind it is read."""

from __future__ import annotations

import asyncio

import pytest

from proxy.oci import Digest
from proxy.refusals import Reason
from proxy.standin import StandIn
from tests.raw import Wire, exchange, parse_reply
from tests.running import RunningProxy

HOST = b"Host: proxy\r\n"
# What a smuggler would have read as a request of its own: it would be asked upstream.
HIDDEN = b"GET /v2/app/manifests/hidden HTTP/1.1\r\n" + HOST + b"\r\n"
LONG = 70_000


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def get(line: bytes, fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 4\r\n"
NO_CHUNKS = b"0\r\n\r\n"

REFUSED = {
    # Two framings, or one that is not what it seems (RFC 9112, section 6).
    "length and chunked": (400, post(LENGTH + CHUNKED, NO_CHUNKS)),
    "chunked and length": (400, post(CHUNKED + LENGTH, NO_CHUNKS)),
    "two lengths": (400, post(LENGTH + b"Content-Length: 5\r\n", b"body")),
    "the same length twice": (400, post(LENGTH + LENGTH, b"body")),
    "a list of lengths": (400, post(b"Content-Length: 4, 4\r\n", b"body")),
    "a length with a sign": (400, post(b"Content-Length: +4\r\n", b"body")),
    "a negative length": (400, post(b"Content-Length: -4\r\n", b"body")),
    "a hexadecimal length": (400, post(b"Content-Length: 0x4\r\n", b"body")),
    "a length with a line": (400, post(b"Content-Length: 1_0\r\n", b"body")),
    "an empty length": (400, post(b"Content-Length:\r\n")),
    "a length beyond 64 bits": (400, post(b"Content-Length: 99999999999999999999\r\n")),
    "a length that is 64 ones": (400, post(b"Content-Length: 18446744073709551615\r\n")),
    "an unknown encoding": (400, post(b"Transfer-Encoding: xchunked\r\n", NO_CHUNKS)),
    "an encoding before chunked": (400, post(b"Transfer-Encoding: gzip, chunked\r\n", NO_CHUNKS)),
    "an encoding behind chunked": (
        400,
        post(b"Transfer-Encoding: chunked, identity\r\n", NO_CHUNKS),
    ),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked\r\n", NO_CHUNKS)),
    "two encodings": (400, post(CHUNKED + b"Transfer-Encoding: identity\r\n", NO_CHUNKS)),
    "identity": (400, post(b"Transfer-Encoding: identity\r\n", NO_CHUNKS)),
    "an empty encoding": (400, post(b"Transfer-Encoding:\r\n", NO_CHUNKS)),
    "a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked\r\n", NO_CHUNKS)),
    "chunked in HTTP/1.0": (
        400,
        b"POST /v2/ HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n" + NO_CHUNKS,
    ),
    # Chunks (RFC 9112, section 7.1).
    "a chunk without a size": (400, post(CHUNKED, b"zz\r\na\r\n" + NO_CHUNKS)),
    "a chunk of a negative size": (400, post(CHUNKED, b"-1\r\na\r\n" + NO_CHUNKS)),
    "a chunk of size 0x1": (400, post(CHUNKED, b"0x1\r\na\r\n" + NO_CHUNKS)),
    "a chunk beyond 64 bits": (400, post(CHUNKED, b"FFFFFFFFFFFFFFFFF\r\na\r\n" + NO_CHUNKS)),
    "chunks with bare line feeds": (400, post(CHUNKED, b"1\na\n0\n\n")),
    "a chunk longer than it says": (400, post(CHUNKED, b"1\r\nabc\r\n" + NO_CHUNKS)),
    "a space behind a size": (400, post(CHUNKED, b"1 \r\na\r\n" + NO_CHUNKS)),
    "garbage in an extension": (400, post(CHUNKED, b"1;\x00\x01\r\na\r\n" + NO_CHUNKS)),
    "a line feed in an extension": (400, post(CHUNKED, b"1;a\n\r\na\r\n" + NO_CHUNKS)),
    # Fields (RFC 9112, section 5; RFC 9110, section 5.5).
    "a folded line": (400, post(b"X-A: 1\r\n 2\r\n")),
    "a folded first line": (400, get(b"GET /v2/ HTTP/1.1", b" Host: proxy\r\n")),
    "a space before the colon": (400, post(b"Content-Length : 4\r\n", b"body")),
    "a NUL in a value": (400, post(b"X-A: a\x00b\r\n")),
    "a carriage return in a value": (400, post(b"X-A: a\rContent-Length: 4\r\n")),
    "a control character": (400, post(b"X-A: a\x01b\r\n")),
    "a NUL in a name": (400, post(b"X\x00A: a\r\n")),
    "no name": (400, post(b": a\r\n")),
    "no colon": (400, post(b"XA\r\n")),
    "a name that is not ASCII": (400, post(b"X\xe9A: a\r\n")),
    "bare line feeds": (400, b"GET /v2/ HTTP/1.1\nHost: proxy\n\n"),
    "a field that is too long": (431, post(b"X-A: " + b"a" * LONG + b"\r\n")),
    "a name that is too long": (431, post(b"a" * LONG + b": a\r\n")),
    "fields that are too long together": (
        431,
        post(b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(90))),
    ),
    "too many fields": (431, post(b"".join(b"X-%d: 1\r\n" % n for n in range(200)))),
    # Targets and hosts (RFC 9112, section 3; RFC 9110, section 7.2).
    "a target with a host": (400, get(b"GET http://other/v2/ HTTP/1.1")),
    "a host for a target": (400, get(b"CONNECT other:443 HTTP/1.1")),
    "a star for a target": (400, get(b"OPTIONS * HTTP/1.1")),
    "a target without a slash": (400, get(b"GET v2/ HTTP/1.1")),
    "a fragment": (400, get(b"GET /v2/#there HTTP/1.1")),
    "a NUL in the target": (400, get(b"GET /v2/\x00 HTTP/1.1")),
    "a space in the target": (400, get(b"GET /v2/ a HTTP/1.1")),
    "a target that is not ASCII": (400, get(b"GET /v2/\xff HTTP/1.1")),
    "a line that is too long": (414, get(b"GET /v2/" + b"a" * LONG + b" HTTP/1.1")),
    "no host": (400, get(b"GET /v2/ HTTP/1.1", b"")),
    "two hosts": (400, get(b"GET /v2/ HTTP/1.1", HOST + b"Host: other\r\n")),
    "a host that is none": (400, get(b"GET /v2/ HTTP/1.1", b"Host: other/x@y\r\n")),
    # First lines and versions.
    "two spaces": (400, get(b"GET  /v2/ HTTP/1.1")),
    "HTTP/0.9": (400, b"GET /v2/\r\n\r\n"),
    "HTTP/0.9 by name": (400, get(b"GET /v2/ HTTP/0.9")),
    "HTTP/1.2": (400, get(b"GET /v2/ HTTP/1.2")),
    "HTTP/2 in the line": (400, get(b"GET /v2/ HTTP/2.0")),
    "HTTP/2's preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another protocol": (400, get(b"OPTIONS /v2/ RTSP/1.0")),
    "a version in small letters": (400, get(b"GET /v2/ http/1.1")),
    "a method in small letters": (400, get(b"get /v2/ HTTP/1.1")),
    "an unknown method": (400, get(b"FETCH /v2/ HTTP/1.1")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "garbage": (400, b"\x00\xff\xfe\r\n\r\n"),
    # What aiohttp answers with a page of its own.
    "another expectation": (417, get(b"GET /livez HTTP/1.1", HOST + b"Expect: a-miracle\r\n")),
}


async def test_what_is_no_request_gets_the_registrys_error_and_nothing_behind_it_is_read(
    proxy: RunningProxy, standin: StandIn
) -> None:
    for name, (status, content) in REFUSED.items():
        assert parse_reply(await exchange(proxy.address, content)).status == status, name
        reply = parse_reply(await exchange(proxy.address, content + HIDDEN))
        assert (reply.status, reply.code) == (status, "UNSUPPORTED"), name
        assert reply.rest == b"", name
        assert reply.headers["Connection"] == "close", name
        assert reply.headers["Content-Type"] == "application/json", name
        assert reply.headers["Server"] == "ecr-cache-proxy", name
        _assert_hidden(standin)


async def test_it_does_not_matter_how_the_bytes_are_cut(
    proxy: RunningProxy, standin: StandIn
) -> None:
    for name, (status, content) in REFUSED.items():
        wire = await Wire.open(proxy.address)
        whole = content + HIDDEN
        size = 7 if len(whole) < LONG else 7777
        for start in range(0, len(whole), size):
            wire.send(whole[start : start + size])
            await asyncio.sleep(0)
        reply = parse_reply(await wire.rest())
        await wire.close()
        # An upload has begun before a chunk of the body is found out.
        assert reply.status in ((status, 202) if CHUNKED in content else (status,)), name
        _assert_hidden(standin)


async def test_a_head_that_is_too_large_is_not_read_to_its_end(proxy: RunningProxy) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 40_000) for n in range(2))
    reply = parse_reply(await exchange(proxy.address, post(fields).removesuffix(b"\r\n")))
    assert reply.status == 431


async def test_what_was_refused_is_counted(proxy: RunningProxy) -> None:
    await exchange(proxy.address, REFUSED["two lengths"][1])
    await exchange(proxy.address, REFUSED["a field that is too long"][1])
    metrics = (await proxy.client.ask("GET", "/metrics")).body.decode()
    for reason in (Reason.BAD_REQUEST, Reason.HEADER_SIZE):
        assert f'ecr_cache_proxy_refusals_total{{reason="{reason}"}} 1.0' in metrics


async def test_what_was_sent_is_not_repeated_to_a_log(
    proxy: RunningProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secret = b"Basic c2VjcmV0OnNlY3JldA=="
    reply = await exchange(proxy.address, post(b"Authorization : " + secret + b"\r\n"))
    assert secret not in reply
    assert secret.decode() not in caplog.text


ALLOWED = {
    "a tab before a value": post(b"Transfer-Encoding:\tchunked\r\n", NO_CHUNKS),
    "capitals": post(b"TRANSFER-ENCODING: CHUNKED\r\n", NO_CHUNKS),
    "an extension": post(CHUNKED, b"1;name=value\r\na\r\n" + NO_CHUNKS),
    "trailers": post(CHUNKED, b"0\r\nX-A: 1\r\n\r\n"),
    "empty lines first": b"\r\n\r\n" + post(b"Content-Length: 0\r\n"),
    "20 kB of credentials": post(b"X-Authorization: " + b"a" * 20_000 + b"\r\n"),
    "an address of IPv6 for a host": b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\n"
    b"Host: [::1]:5000\r\nContent-Length: 0\r\n\r\n",
    "a value that is not ASCII": post(b"X-A: \xc3\xa9\r\n"),
}


async def test_what_is_a_request_however_unusual_is_answered_and_the_connection_goes_on(
    proxy: RunningProxy,
) -> None:
    wire = await Wire.open(proxy.address)
    for name, content in ALLOWED.items():
        wire.send(content)
        assert (await wire.one_reply()).status == 202, name
    await wire.close()


async def test_it_is_answered_also_when_it_comes_in_pieces(proxy: RunningProxy) -> None:
    for name, content in ALLOWED.items():
        wire = await Wire.open(proxy.address)
        size = max(3, len(content) // 1000)
        for start in range(0, len(content), size):
            wire.send(content[start : start + size])
            await asyncio.sleep(0)
        assert (await wire.one_reply()).status == 202, name
        await wire.close()


async def test_only_the_first_of_requests_in_one_piece_is_answered(
    proxy: RunningProxy, standin: StandIn
) -> None:
    ping = get(b"GET /v2/ HTTP/1.1")
    reply = parse_reply(await exchange(proxy.address, ping + HIDDEN))
    assert (reply.status, reply.rest) == (200, b"")
    assert reply.headers["Connection"] == "close"
    _assert_hidden(standin)


@pytest.mark.parametrize("body", [b"1\r\na\r\n", b""])
async def test_a_request_behind_a_chunked_body_is_not_read(
    proxy: RunningProxy, standin: StandIn, body: bytes
) -> None:
    wire = await Wire.open(proxy.address)
    wire.send(post(CHUNKED, body))
    await wire.one_reply()  # given before the end of the body, so it is the last one
    wire.send(NO_CHUNKS + HIDDEN)
    assert await wire.rest() == b""
    await wire.close()
    _assert_hidden(standin)


async def test_trailers_of_a_request_are_no_headers_of_the_next_one(
    proxy: RunningProxy, standin: StandIn
) -> None:
    # aiohttp's parser would put them there: another client's request, behind a shared proxy.
    wire = await Wire.open(proxy.address)
    wire.send(post(CHUNKED, b"0\r\nExpect: a-miracle\r\n\r\n"))
    assert (await wire.one_reply()).status == 202
    wire.send(get(b"GET /livez HTTP/1.1"))
    assert (await wire.one_reply()).status == 200
    await wire.close()


async def test_a_body_whose_chunks_break_is_refused_at_once_and_nothing_behind_it_is_read(
    proxy: RunningProxy, standin: StandIn
) -> None:
    content = b"what is pushed"
    begun = await proxy.client.ask("POST", "/v2/app/blobs/uploads/")
    target = f"{begun.headers['Location']}?digest={Digest.of(content)}".encode()
    wire = await Wire.open(proxy.address)
    wire.send(b"PUT " + target + b" HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
    wire.send(b"%x\r\n%s\r\n" % (len(content), content))
    # Answered after the first chunk has been read, on a connection of its own.
    await proxy.client.ask("GET", begun.headers["Location"])
    wire.send(b"not a size\r\n" + NO_CHUNKS + HIDDEN)
    reply = parse_reply(await wire.rest())
    await wire.close()
    assert (reply.status, reply.code) == (400, "BLOB_UPLOAD_INVALID")
    assert reply.headers["Connection"] == "close"
    _assert_hidden(standin)


async def test_a_switch_of_protocols_is_declined_and_ends_the_connection(
    proxy: RunningProxy, standin: StandIn
) -> None:
    upgrade = get(b"GET /v2/ HTTP/1.1", HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n")
    reply = parse_reply(await exchange(proxy.address, upgrade + HIDDEN))
    assert (reply.status, reply.rest) == (200, b"")
    _assert_hidden(standin)


@pytest.mark.parametrize("path", ["/v2/", "/livez", "/metrics", "/nowhere", "/v2/app/blobs/none"])
async def test_no_reply_tells_what_software_it_is(proxy: RunningProxy, path: str) -> None:
    reply = await proxy.client.ask("GET", path)
    assert reply.headers["Server"] == "ecr-cache-proxy"


def _assert_hidden(standin: StandIn) -> None:
    assert not [e for e in standin.requests if "hidden" in e.path]
