"""Certificates: upstream's are always verified, and a file adds to whose are trusted."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.errors import BadGateway
from proxy.events import Events
from proxy.oci import Digest, RepositoryName
from proxy.upstream import RegistryConfig, Trust, open_registry
from proxy.upstream.trust import TrustFile
from tests.upstream.fakes import QUICK, FakeAws

REPO = RepositoryName("app")
BLOB = b"a blob"
DIGEST = Digest.of(BLOB)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@asynccontextmanager
async def served(
    app: web.Application, authority: trustme.CA, *, clients: trustme.CA | None = None
) -> AsyncIterator[TestServer]:
    """An application over TLS; with `clients`, for those alone who have a certificate of theirs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        yield server
    finally:
        await server.close()


def a_registry(storage: str = "") -> web.Application:
    async def ping(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async def blob(request: web.Request) -> web.StreamResponse:
        if not storage:
            return web.Response(body=BLOB)
        return web.Response(status=307, headers={"Location": f"{storage}/x"})

    async def stored(request: web.Request) -> web.StreamResponse:
        return web.Response(body=BLOB)

    app = web.Application()
    app.router.add_get("/v2/", ping)
    app.router.add_get(f"/v2/{REPO}/blobs/{DIGEST}", blob)
    app.router.add_get("/x", stored)
    return app


def url_of(server: TestServer) -> str:
    return f"https://127.0.0.1:{server.port}"


async def ping(config: RegistryConfig, trust: Trust | None = None) -> None:
    registry = await open_registry(config, proxies={}, events=Events(), trust=trust, tuning=QUICK)
    try:
        await registry.ping()
    finally:
        await registry.close()


async def test_registry_that_nobody_vouches_for_is_refused_and_trusted_with_the_bundle(
    authority: trustme.CA, bundle: Path
) -> None:
    async with served(a_registry(), authority) as server:
        config = RegistryConfig(name="lan", url=url_of(server))
        with pytest.raises(BadGateway, match=r"no trusted TLS connection .*ca-bundle"):
            await ping(config)
        await ping(config, Trust.read(bundle))


async def test_certificate_of_another_host_is_refused_with_the_bundle_too(
    authority: trustme.CA, bundle: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(context)
    server = TestServer(a_registry(), scheme="https")
    await server.start_server(ssl=context)
    with pytest.raises(BadGateway, match="no trusted TLS connection"):
        await ping(RegistryConfig(name="lan", url=url_of(server)), Trust.read(bundle))
    await server.close()


async def test_what_speaks_no_tls_is_told_in_the_words_of_tls() -> None:
    server = TestServer(a_registry())
    await server.start_server()
    with pytest.raises(BadGateway, match=r"no trusted TLS connection .*: wrong version number"):
        await ping(RegistryConfig(name="lan", url=url_of(server)))
    await server.close()


async def test_where_it_redirects_to_is_verified_as_well(
    authority: trustme.CA, bundle: Path
) -> None:
    stranger = trustme.CA()
    for storage_of, fine in ((stranger, False), (authority, True)):
        async with (
            served(a_registry(), storage_of) as storage,
            served(a_registry(url_of(storage)), authority) as server,
        ):
            registry = await open_registry(
                RegistryConfig(name="lan", url=url_of(server)),
                proxies={},
                events=Events(),
                trust=Trust.read(bundle),
                tuning=QUICK,
            )
            try:
                if fine:
                    async with registry.open_blob(REPO, DIGEST) as stream:
                        assert b"".join([chunk async for chunk in stream.chunks()]) == BLOB
                else:
                    with pytest.raises(BadGateway, match="no trusted TLS connection"):
                        async with registry.open_blob(REPO, DIGEST):
                            pass
            finally:
                await registry.close()


def an_aws() -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        token = base64.b64encode(b"AWS:token").decode()
        entry = {"authorizationToken": token, "expiresAt": time.time() + 3600}
        return web.json_response({"authorizationData": [entry]})

    app = web.Application()
    app.router.add_post("/", answer)
    return app


async def test_aws_is_verified_by_botocores_certificates_and_ours(
    authority: trustme.CA, bundle: Path, keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with served(an_aws(), authority) as aws, served(a_registry(), authority) as server:
        config = RegistryConfig(name="ecr", url=url_of(server), ecr=True, api_url=url_of(aws))
        registry = await open_registry(config, proxies={}, events=Events(), tuning=QUICK)
        problem = registry.credentials_problem()
        await registry.close()
        assert problem is not None
        assert "no trusted TLS connection" in problem
        await ping(config, Trust.read(bundle))
        # Without a bundle of ours, what botocore takes is as it was.
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        await ping(config)


async def test_a_bundle_adds_to_the_one_that_aws_is_known_by(
    authority: trustme.CA, bundle: Path, keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = trustme.CA()
    of_aws = tmp_path / "aws.pem"
    other.cert_pem.write_to_path(str(of_aws))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(of_aws))
    async with served(an_aws(), other) as aws, served(a_registry(), authority) as server:
        config = RegistryConfig(name="ecr", url=url_of(server), ecr=True, api_url=url_of(aws))
        await ping(config, Trust.read(bundle))


async def test_a_role_is_assumed_and_used_over_verified_connections(
    authority: trustme.CA, bundle: Path, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeAws()
    app = web.Application()
    app.router.add_post("/", fake._handle)
    async with served(app, authority) as aws, served(a_registry(), authority) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url_of(aws))
        config = RegistryConfig(
            name="ecr",
            url=url_of(server),
            ecr=True,
            api_url=url_of(aws),
            role_arn="arn:aws:iam::123456789012:role/r",
        )
        await ping(config, Trust.read(bundle))
    assert len(fake.roles) == 1
    assert fake.keys == ["ASIAROLE"]


async def test_a_registry_that_asks_for_a_certificate_gets_ours_and_storage_does_not(
    authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    clients = trustme.CA()
    mine = clients.issue_cert("sidecar.example")
    cert, key = tmp_path / "me.pem", tmp_path / "me.key"
    mine.cert_chain_pems[0].write_to_path(str(cert))
    mine.private_key_pem.write_to_path(str(key))
    trust = Trust.read(bundle)
    async with served(a_registry(), authority, clients=clients) as server:
        config = RegistryConfig(name="lan", url=url_of(server))
        with pytest.raises(BadGateway):
            await ping(config, trust)
        config = RegistryConfig(
            name="lan", url=url_of(server), client_cert_file=cert, client_key_file=key
        )
        await ping(config, trust)
        async with served(a_registry(url_of(server)), authority) as other:
            config = RegistryConfig(
                name="lan", url=url_of(other), client_cert_file=cert, client_key_file=key
            )
            registry = await open_registry(
                config, proxies={}, events=Events(), trust=trust, tuning=QUICK
            )
            with pytest.raises(BadGateway):
                async with registry.open_blob(REPO, DIGEST):
                    pass
            await registry.close()


async def test_a_certificate_without_its_key_is_told_at_the_start(
    authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    for key in (bundle, tmp_path / "gone.pem"):
        config = RegistryConfig(
            name="lan", url="https://lan", client_cert_file=bundle, client_key_file=key
        )
        with pytest.raises(ValueError, match=r"cannot use .*ca\.pem with"):
            await open_registry(config, proxies={}, events=Events(), tuning=QUICK)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"\xff\x00",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_bundle_without_certificates_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot use .*ca\.pem: it holds no certificates in PEM"):
        Trust.read(path)


def test_names_above_the_certificates_may_be_in_any_script(bundle: Path) -> None:
    """As in the bundles of distributions, which have them in UTF-8, or in what came before."""
    pem = bundle.read_bytes()
    for name in ("# Főtanúsítvány\n".encode(), b"# F\xf5tan\xfas\xedtv\xe1ny\n"):
        bundle.write_bytes(name + pem)
        assert len(Trust.read(bundle).context().get_ca_certs()) > len(
            Trust().context().get_ca_certs()
        )


def test_a_bundle_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot use .*ca\.pem: No such file or directory"):
        Trust.read(tmp_path / "ca.pem")


def test_the_file_for_botocore_takes_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    file = TrustFile(b"certificates")
    assert Path(file.path).read_bytes() == b"certificates"
    assert Path(file.path).read_bytes() == b"certificates"  # by each connection anew
    assert file.path.startswith("/proc/self/fd/")
    file.close()
    monkeypatch.delattr(os, "memfd_create")
    file = TrustFile(b"certificates")
    assert Path(file.path).read_bytes() == b"certificates"
    file.close()
    assert not Path(file.path).exists()


def test_there_is_no_way_to_trust_everybody() -> None:
    for trust in (Trust(), Trust(b"")):
        context = trust.context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
