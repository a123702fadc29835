"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY: through a real forward proxy on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from proxy.errors import BadGateway
from proxy.upstream import RegistryConfig, Tuning
from proxy.upstream.transport import choose_proxy
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import Answer, FakeServer

NAME = "registry.test"  # resolves nowhere: only the forward proxy can lead there


class ForwardProxy:
    """Takes CONNECT and absolute URLs, and leads all of them to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.port = 0
        self.refuses = False
        self._leads_to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            method, target, _ = line.decode().split(" ")
            headers = dict(one.split(": ", 1) for one in rest.decode().split("\r\n") if ": " in one)
            self.asked.append((f"{method} {target}", headers.get("Proxy-Authorization")))
            if self.refuses:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            there, onward = await asyncio.open_connection("127.0.0.1", self._leads_to)
            with contextlib.closing(onward):
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = URL(target, encoded=True).raw_path_qs
                    onward.write(f"{method} {path} HTTP/1.1\r\n".encode() + rest)
                await asyncio.gather(_copy(reader, onward), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


@pytest.fixture
async def forward(server: FakeServer) -> AsyncIterator[ForwardProxy]:
    proxy = ForwardProxy(server.port)
    await proxy.start()
    yield proxy
    await proxy.close()


async def test_http_goes_through_the_proxy(
    open_: OpenRegistry, server: FakeServer, forward: ForwardProxy
) -> None:
    server.tell("GET", "/v2/", Answer(200))
    registry = await open_(
        RegistryConfig(name=NAME, url=f"http://{NAME}:5000", username="u", password="p"),
        proxies={"http": f"http://me:pass%20word@127.0.0.1:{forward.port}"},
    )
    await registry.ping()
    assert forward.asked == [(f"GET http://{NAME}:5000/v2/", "Basic bWU6cGFzcyB3b3Jk")]
    (seen,) = server.seen
    assert seen.headers["Host"] == f"{NAME}:5000"
    assert seen.authorization == "Basic dTpw"


@pytest.fixture
async def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestServer]:
    """A registry over TLS, its certificate trusted through SSL_CERT_FILE."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "cert.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/v2/", answer)
    served = TestServer(app, scheme="https")
    await served.start_server(ssl=context)
    yield served
    await served.close()


async def test_https_goes_through_a_tunnel(open_: OpenRegistry, secure: TestServer) -> None:
    assert secure.port is not None
    tunnel = ForwardProxy(secure.port)
    await tunnel.start()
    registry = await open_(
        RegistryConfig(name=NAME, username="u", password="p"),
        proxies={"https": f"127.0.0.1:{tunnel.port}"},
    )
    await registry.ping()
    assert tunnel.asked == [(f"CONNECT {NAME}:443", None)]
    await registry.close()
    await tunnel.close()


async def test_untrusted_certificate_is_told_and_not_tried_again(
    open_: OpenRegistry, secure: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    registry = await open_(
        RegistryConfig(name="lan", url=f"https://127.0.0.1:{secure.port}"),
        tuning=Tuning(attempts=3, first_pause=3600.0, patience=7200.0),
    )
    with pytest.raises(BadGateway, match=r"no trusted TLS connection .*ca-bundle"):
        await registry.ping()


async def test_no_proxy_is_respected(open_: OpenRegistry, forward: ForwardProxy) -> None:
    registry = await open_(
        RegistryConfig(name=NAME, url=f"http://{NAME}:5000"),
        proxies={"http": f"http://127.0.0.1:{forward.port}", "no": "other.test, .test"},
        tuning=Tuning(attempts=1),
    )
    with pytest.raises(BadGateway, match=rf"{NAME}:5000 cannot be resolved"):
        await registry.ping()
    assert forward.asked == []


async def test_loopback_is_never_asked_for_through_a_proxy(
    open_: OpenRegistry, server: FakeServer, forward: ForwardProxy
) -> None:
    server.tell("GET", "/v2/", Answer(200))
    registry = await open_(
        RegistryConfig(name="lan", url=server.url),
        proxies={"http": f"http://127.0.0.1:{forward.port}"},
    )
    await registry.ping()
    assert forward.asked == []


async def test_proxy_that_refuses_is_named(open_: OpenRegistry, forward: ForwardProxy) -> None:
    forward.refuses = True
    registry = await open_(
        RegistryConfig(name=NAME),
        proxies={"https": f"http://me:secret@127.0.0.1:{forward.port}"},
        tuning=Tuning(attempts=1),
    )
    with pytest.raises(BadGateway, match=r"the forward proxy does not lead to .*403") as raised:
        await registry.ping()
    assert "secret" not in raised.value.message


async def test_proxy_that_is_not_there_is_named(open_: OpenRegistry, unused_tcp_port: int) -> None:
    registry = await open_(
        RegistryConfig(name=NAME),
        proxies={"https": f"http://127.0.0.1:{unused_tcp_port}"},
        tuning=Tuning(attempts=1),
    )
    with pytest.raises(BadGateway, match="the forward proxy does not lead to"):
        await registry.ping()


@pytest.mark.parametrize(
    ("url", "proxies", "expected"),
    [
        ("https://a.example/", {}, None),
        ("https://a.example/", {"http": "http://p"}, None),
        ("https://a.example/", {"https": "http://p"}, "http://p"),
        ("https://a.example/", {"all": "http://p"}, "http://p"),
        ("https://a.example/", {"https": "p:3128"}, "http://p:3128"),
        ("https://a.example/", {"https": ""}, None),
        ("https://a.example/", {"https": "http://p", "no": "*"}, None),
        ("https://a.example/", {"https": "http://p", "no": "example"}, None),
        ("https://a.example/", {"https": "http://p", "no": "b.example"}, "http://p"),
        ("https://a.example:8443/", {"https": "http://p", "no": "a.example:8443"}, None),
        ("https://a.example:8443/", {"https": "http://p", "no": "a.example:443"}, "http://p"),
        ("https://[2001:db8::1]/", {"https": "http://p", "no": "[2001:db8::1]"}, None),
        ("https://localhost/", {"https": "http://p"}, None),
        ("https://[::1]:5000/", {"https": "http://p"}, None),
    ],
)
def test_choice_of_proxy(url: str, proxies: dict[str, str], expected: str | None) -> None:
    assert choose_proxy(URL(url), proxies) == expected
