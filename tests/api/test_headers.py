"""What crosses the proxy in a header: a fixed set in each direction, and nothing unchecked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.config import RegistrySettings
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.peer import PEER_HEADER
from proxy.standin import StandIn
from proxy.upstream import Tuning
from tests.cli.test_running import push_image
from tests.running import Answer as Got
from tests.running import RunningProxy, running, settings_for, straight_to
from tests.upstream.fakes import Answer, FakeServer

BLOB = b"a blob"
DIGEST = Digest.of(BLOB)
MANIFEST = b'{"schemaVersion":2,"layers":[]}'
OF_MANIFEST = Digest.of(MANIFEST)

# What a client sends, or somebody in its name, and upstream must not see.
EVIL = {
    "Authorization": "Basic bWU6Y2xpZW50cw==",
    "Cookie": "session=1",
    "Proxy-Authorization": "Basic cHJveHk6cHJveHk=",
    "X-Forwarded-For": "10.9.9.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Real-IP": "10.9.9.9",
    "Forwarded": "for=10.9.9.9",
    "Via": "1.1 evil",
    "Connection": "keep-alive, X-Evil",
    "Keep-Alive": "timeout=5",
    "TE": "trailers",
    "Trailer": "X-Evil",
    "Referer": "https://evil.example/",
    "Origin": "https://evil.example",
    "If-None-Match": '"x"',
    "X-Amz-Security-Token": "token",
    "X-Evil": "1",
}
# What upstream sends, and a client must not see.
FOREIGN = {
    "Set-Cookie": "session=1",
    "Server": "registry/1",
    "WWW-Authenticate": 'Basic realm="https://evil.example/"',
    "Proxy-Authenticate": "Basic",
    "Authorization": "Basic x",
    "Keep-Alive": "timeout=5",
    "Trailer": "X-Foreign",
    "Strict-Transport-Security": "max-age=1",
    "Access-Control-Allow-Origin": "*",
    "Via": "1.1 upstream",
    "X-Amzn-RequestId": "1",
    "Ecr-Cache-Proxy-Error": "SHAM",
    "Sizes": "",
    "X-Foreign": "1",
}
ALWAYS = frozenset({"Host", "Accept", "Accept-Encoding", "User-Agent", PEER_HEADER})
OURS = ALWAYS | {"Authorization"}
COMMON = frozenset(
    {
        *("Content-Type", "Content-Length", "Date", "Server"),
        *("Docker-Distribution-Api-Version", "X-Content-Type-Options", PEER_HEADER),
    }
)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def storage() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.close()


def registry_at(url: str) -> RegistrySettings:
    return RegistrySettings(name="lan", url=url, username="proxys", password="own")


# Nothing is waited out: what is refused is to be seen as it is.
AT_ONCE = Timing(tuning=Tuning(attempts=1, patience=0.0, push_patience=0.0, failures=1000))


@pytest.fixture
async def through(upstream: FakeServer, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    settings = settings_for(registry_at(upstream.url), cache_dir=tmp_path / "cache")
    async with running(settings, timing=AT_ONCE) as proxy:
        yield proxy


def names(server: FakeServer) -> dict[str, frozenset[str]]:
    """The names of the headers that came, by request line."""
    return {f"{seen.method} {seen.target}": frozenset(seen.headers) for seen in server.seen}


async def test_what_a_client_sends_beside_its_request_stays_here(
    through: RunningProxy, upstream: FakeServer, storage: FakeServer
) -> None:
    blob, manifests = f"/v2/app/blobs/{DIGEST}", "/v2/app/manifests"
    found = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OF_MANIFEST}
    upstream.tell("GET", blob, Answer(307, b"", {"Location": f"{storage.url}/signed?X-Amz-1=2"}))
    storage.tell("GET", "/signed?X-Amz-1=2", Answer(200, BLOB))
    upstream.tell("HEAD", f"/v2/app/blobs/{OF_MANIFEST}", Answer(404))
    upstream.tell("HEAD", f"{manifests}/1", Answer(200, MANIFEST, found))
    upstream.tell("GET", f"{manifests}/1", Answer(200, MANIFEST, found))
    upstream.tell("GET", f"{manifests}/{OF_MANIFEST}", Answer(200, MANIFEST, found))
    upstream.tell("PUT", f"{manifests}/2", Answer(201))
    upstream.tell("DELETE", f"{manifests}/3", Answer(202))
    upstream.tell("GET", "/v2/app/tags/list", Answer(200, b'{"tags":[]}'))
    uploads = "/v2/app/blobs/uploads/"
    upstream.tell("POST", uploads, Answer(202, b"", {"Location": f"{uploads}1"}))
    other = Digest.of(b"pushed")
    upstream.tell("HEAD", f"/v2/app/blobs/{other}", Answer(404))
    upstream.tell("PATCH", f"{uploads}1", Answer(202, b"", {"Location": f"{uploads}1"}))
    upstream.tell("PUT", f"{uploads}1?digest={str(other).replace(':', '%3A')}", Answer(201))

    async def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        got = await through.client.ask(method, path, headers=EVIL | headers, body=body)
        assert got.status < 400 or (method, got.status) == ("HEAD", 404), (method, path, got)

    await ask("GET", "/v2/")
    await ask("GET", blob)
    await ask("HEAD", f"/v2/app/blobs/{OF_MANIFEST}")
    await ask("HEAD", f"{manifests}/1")
    await ask("GET", f"{manifests}/1")
    await ask("GET", "/v2/app/tags/list")
    await ask("DELETE", f"{manifests}/3")
    started = await through.client.ask("POST", uploads, headers=EVIL)
    location = f"{started.headers['Location']}?digest={other}"
    await ask("PUT", location, b"pushed")
    await through.until_upstream(other)
    await ask("PUT", f"{manifests}/2", MANIFEST, **{"Content-Type": OCI_INDEX})

    sent = names(upstream)
    sizes = {"Content-Length"}
    expected = {
        f"GET {blob}": OURS,
        f"HEAD {manifests}/1": OURS,
        f"GET {manifests}/{OF_MANIFEST}": OURS,
        "GET /v2/app/tags/list": OURS,
        f"DELETE {manifests}/3": OURS | sizes,
        f"POST {uploads}": OURS | sizes | {"Content-Type"},
        f"PUT {manifests}/2": OURS | sizes | {"Content-Type"},
    }
    assert {line: sent[line] for line in expected} == expected
    for line, headers in sent.items():
        assert headers <= OURS | sizes | {"Content-Type", "Content-Range", "Cache-Control"}, line
    # Storage gets less: no credentials, and nothing that tells of them.
    assert names(storage) == {"GET /signed?X-Amz-1=2": ALWAYS}
    for seen in (*upstream.seen, *storage.seen):
        assert seen.headers["Host"] in (upstream.host, storage.host)
        assert seen.headers["User-Agent"].startswith("ecr-cache-proxy/")
        assert "evil" not in str(seen.headers)
        assert seen.authorization in ("Basic cHJveHlzOm93bg==", None)


async def test_ecrs_token_does_not_reach_storage(proxy: RunningProxy, standin: StandIn) -> None:
    """The stand-in refuses it there, as S3 does; and it looks at every name."""

    async with straight_to(standin) as client:
        await push_image(client, layer=b"a layer")
    got = await proxy.client.ask("GET", f"/v2/app/blobs/{Digest.of(b'a layer')}", headers=EVIL)
    assert (got.status, got.body) == (200, b"a layer")
    assert any(request.server == "s3" for request in standin.requests)


@pytest.mark.parametrize("status", [200, 401, 403, 404, 405, 429, 500, 503])
async def test_what_upstream_sends_beside_its_answer_stays_here(
    through: RunningProxy, upstream: FakeServer, status: int
) -> None:
    found = FOREIGN | {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OF_MANIFEST}
    blob, manifest = f"/v2/app/blobs/{DIGEST}", "/v2/app/manifests/1"
    upstream.tell("GET", manifest, Answer(status, MANIFEST, found))
    upstream.tell("HEAD", manifest, Answer(status, MANIFEST, found))
    upstream.tell("GET", f"/v2/app/manifests/{OF_MANIFEST}", Answer(200, MANIFEST, found))
    upstream.tell("GET", blob, Answer(status, BLOB, FOREIGN))
    upstream.tell("HEAD", blob, Answer(status, BLOB, FOREIGN))
    upstream.tell("GET", "/v2/app/tags/list", Answer(status, b'{"tags":[]}', FOREIGN))
    upstream.tell("PUT", "/v2/app/manifests/2", Answer(status, b"", FOREIGN))
    more = {
        manifest: {"Docker-Content-Digest", "Etag"},
        blob: {"Docker-Content-Digest", "Accept-Ranges"},
        "/v2/app/tags/list": set(),
    }
    for path, own in more.items():
        for method in ("GET", "HEAD"):
            if (method, path) == ("HEAD", "/v2/app/tags/list"):
                continue
            got = await through.client.ask(method, path)
            allowed = (
                COMMON | own if status == 200 else COMMON | {"Ecr-Cache-Proxy-Error", "Retry-After"}
            )
            assert set(got.headers) <= allowed, (method, path)
            assert "SHAM" not in str(got.headers)
            assert "registry/1" not in str(got.headers)


# What is no header, and would be one if nobody looked


@asynccontextmanager
async def raw_upstream(reply: Callable[[str], bytes]) -> AsyncIterator[str]:
    """A server that answers each request line with bytes as they are, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(reply(head.partition(b" HTTP/")[0].decode()))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


VALUES = {
    "control": b"a\x01b\x7f",
    "tab": b"a\tb",
    "latin": b"caf\xe9",
    "utf-8": "caf\u00e9\u2028x".encode(),
    "null": b"a\x00b",
    "bare cr": b"a\rX-Split: 1",
    "escaped": b"a%0d%0aX-Split:%201",
    "quote": b'a"; <evil>, b',
    "huge": b"9" * 100_000,
    "number": b"9" * 5000,
    "empty": b"",
}
HEADERS = (
    *("Docker-Content-Digest", "Content-Type", "Link", "Location", "Retry-After", "OCI-Subject"),
    *("OCI-Tag", "Content-Range", "OCI-Filters-Applied", "WWW-Authenticate", "Etag"),
    *("OCI-Chunk-Min-Length", "Ecr-Cache-Proxy-Age"),
)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", VALUES)
async def test_no_value_of_upstreams_becomes_a_header_unchecked(
    tmp_path: Path, name: str, value: str
) -> None:
    """Whatever it is, it is no fault of the proxy's: no 500, no header split, no text passed on."""

    def reply(line: str) -> bytes:
        status = int(line.partition("/v2/s")[2][:3])
        body = MANIFEST if "manifests" in line else b'{"tags":[],"manifests":[]}'
        body = BLOB if f"blobs/{DIGEST}" in line else body
        content = b"" if line.startswith("HEAD") else body
        told = VALUES[value]
        if name == "Link":
            told = b"</v2/app/tags/list?last=" + told + b'>; rel="next"'
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{name}: ".encode()
        return head + told + b"\r\nConnection: close\r\n\r\n" + content

    async with raw_upstream(reply) as url:
        settings = settings_for(RegistrySettings(name="lan", url=url), cache_dir=tmp_path / "cache")
        async with running(settings, timing=AT_ONCE) as proxy:
            for status in (200, 206, 307, 405, 429):
                for method, path in (
                    *(("GET", "manifests/1"), ("HEAD", "manifests/1")),
                    *(("GET", f"blobs/{DIGEST}"), ("HEAD", f"blobs/{DIGEST}")),
                    *(("GET", "tags/list"), ("GET", f"referrers/{DIGEST}")),
                    *(("PUT", "manifests/1"), ("DELETE", "manifests/1")),
                ):
                    body = MANIFEST if method == "PUT" else None
                    headers = {"Content-Type": OCI_INDEX} if body else {}
                    path = f"/v2/s{status}/{path}"
                    _check(await proxy.client.ask(method, path, headers=headers, body=body))


def _check(got: Got) -> None:
    assert got.status != 500
    assert "X-Split" not in got.headers
    for name, text in got.headers.items():
        assert text.isascii(), name
        assert text.isprintable(), name
        assert len(text) < 8000, name
        if name != "Ecr-Cache-Proxy-Error":  # which has upstream's words, and only what is ASCII
            assert "evil" not in text, name


# What a client writes into its request line

BITS = (
    "%0d%0aX-Split:%201",
    "%00",
    "%0a",
    "%e9",
    "%C3%A9",
    "%ff%fe",
    "%2e%2e%2f",
    "%252f",
    "..%2f",
)


@pytest.mark.parametrize("bit", BITS)
async def test_no_name_of_a_clients_becomes_a_header_or_a_path_unchecked(
    through: RunningProxy, upstream: FakeServer, bit: str
) -> None:
    uploads = "/v2/app/blobs/uploads/"
    upstream.tell("POST", uploads, Answer(202, b"", {"Location": f"{uploads}1"}))
    upstream.tell("GET", "/v2/app/tags/list", Answer(200, b'{"tags":[]}'))
    upstream.tell("GET", f"/v2/app/referrers/{DIGEST}", Answer(200, b'{"manifests":[]}'))
    for method, target in (
        ("GET", f"/v2/a{bit}b/manifests/1"),
        ("GET", f"/v2/app/manifests/1{bit}"),
        ("GET", f"/v2/app/manifests/{OF_MANIFEST}{bit}"),
        ("GET", f"/v2/app/blobs/{DIGEST}{bit}"),
        ("HEAD", f"/v2/app/blobs/sha256:{bit}"),
        ("GET", f"/v2/app/tags/list?ns=lan{bit}"),
        ("GET", f"/v2/app/tags/list?last=x{bit}"),
        ("GET", f"/v2/app/tags/list?n=1{bit}"),
        ("GET", f"/v2/app/referrers/{DIGEST}?artifactType=x{bit}"),
        ("GET", f"/v2/app/referrers/{DIGEST}?next=x{bit}"),
        ("POST", f"{uploads}?mount={DIGEST}{bit}&from=app"),
        ("POST", f"{uploads}?mount={DIGEST}&from=app{bit}"),
        ("POST", f"{uploads}?digest={DIGEST}{bit}"),
        ("POST", f"{uploads}?ns=lan{bit}"),
        ("PUT", f"{uploads}x{bit}?digest={DIGEST}"),
        ("GET", f"/v2/{bit}"),
        ("GET", f"/{bit}"),
    ):
        got = await through.client.ask(method, target, headers=EVIL)
        _check(got)
    for seen in upstream.seen:
        assert "X-Split" not in seen.headers
        assert seen.target.isascii()
        assert seen.target.isprintable()
        assert "/../" not in seen.target


@pytest.mark.parametrize("value", ["a\x01b", "caf\u00e9", "a b", "x" * 300, ""])
async def test_a_media_type_that_can_be_none_is_refused(
    through: RunningProxy, upstream: FakeServer, value: str
) -> None:
    host, _, port = through.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\nContent-Type: "
        + value.encode("utf-8", "surrogateescape")
        + b"\r\nContent-Length: 2\r\n\r\n{}"
    )
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert reply.split(b" ")[1] == b"400"
    assert upstream.targets("PUT") == []


async def test_credentials_and_signatures_that_upstream_repeats_are_not_told(
    through: RunningProxy, upstream: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    said = (
        b'{"errors":[{"code":"DENIED","message":"no to Basic cHJveHlzOm93bg== (cHJveHlzOm93bg==), '
        b'nor to https://s3.example/x?a=b&X-Amz-Signature=deadbeef, please"}]}'
    )
    for status in (403, 500):
        upstream.tell("GET", f"/v2/s{status}/tags/list", Answer(status, said))
        got = await through.client.ask("GET", f"/v2/s{status}/tags/list")
        told = f"{got.body!r} {got.headers} {caplog.text}"
        assert "https://s3.example/x" in told
        assert not [one for one in ("cHJveHlzOm93bg", "deadbeef", "X-Amz") if one in told]


@pytest.mark.parametrize("location", ["http://evil.example/x", "http://169.254.169.254/latest"])
async def test_a_redirect_that_is_not_followed_is_counted(
    through: RunningProxy, upstream: FakeServer, location: str
) -> None:
    upstream.tell("GET", f"/v2/app/blobs/{DIGEST}", Answer(307, b"", {"Location": location}))
    got = await through.client.ask("GET", f"/v2/app/blobs/{DIGEST}")
    assert got.status == 502
    metrics = (await through.client.ask("GET", "/metrics")).body.decode()
    count = metrics.partition('ecr_cache_proxy_refusals_total{reason="redirect"} ')[2]
    assert float(count.split("\n")[0]) >= 1
