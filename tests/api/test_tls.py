"""The proxy over TLS, by real handshakes."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme

from proxy.app import StartError, Timing
from proxy.config import LimitSettings, Settings
from proxy.demo import registry_of
from proxy.oci import Digest
from proxy.refusals import Reason
from proxy.standin import StandIn
from tests.caches import Cache
from tests.certificates import Pair, trusting
from tests.raw import Wire, exchange, parse_reply
from tests.running import RunningProxy, running, settings_for

PING = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
KEEP = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = bytes(range(256)) * 65536  # 16 MiB: more than the system buffers for a socket
SOON = 0.05


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> Pair:
    pair = Pair(tmp_path)
    pair.write(authority)
    return pair


@pytest.fixture
def settings(standin: StandIn, tmp_path: Path, pair: Pair) -> Settings:
    plain = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    return replace(plain, tls=pair.settings())


@asynccontextmanager
async def served(settings: Settings, **timing: float) -> AsyncIterator[RunningProxy]:
    async with running(settings, timing=Timing(certificate_seconds=0.01)) as proxy:
        yield proxy


async def test_it_speaks_https_and_no_http(settings: Settings, authority: trustme.CA) -> None:
    async with served(settings) as proxy:
        reply = await exchange(proxy.address, PING, context=trusting(authority))
        assert parse_reply(reply).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(proxy.address, PING, context=ssl.create_default_context())
        plain = parse_reply(await exchange(proxy.address, PING))
        assert (plain.status, plain.code) == (400, "UNSUPPORTED")
        assert b"the proxy speaks HTTPS here" in plain.body
        assert await _count(proxy, trusting(authority), Reason.BAD_REQUEST) == 1


async def test_a_blob_that_is_pushed_and_pulled_over_tls_arrives_right(
    settings: Settings, authority: trustme.CA
) -> None:
    async with served(settings) as proxy:
        connector = aiohttp.TCPConnector(ssl=trusting(authority))
        async with aiohttp.ClientSession(f"https://{proxy.address}", connector=connector) as client:
            begun = await client.post("/v2/app/blobs/uploads/")
            where = f"{begun.headers['Location']}?digest={Digest.of(LARGE)}"
            async with client.put(where, data=io.BytesIO(LARGE)) as pushed:
                assert pushed.status == 201
            for span in (None, "bytes=1000000-16000000"):
                headers = {} if span is None else {"Range": span}
                url = f"/v2/app/blobs/{Digest.of(LARGE)}"
                async with client.get(url, headers=headers) as got:
                    whole = LARGE if span is None else LARGE[1000000:16000001]
                    assert await got.read() == whole


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_modern_versions_are_spoken_and_only_http_1_1_is_agreed_on(
    settings: Settings, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with served(settings) as proxy:
        wire = await Wire.open(proxy.address, context=context)
        agreed = wire.writer.get_extra_info("ssl_object")
        assert agreed.selected_alpn_protocol() == "http/1.1"
        assert agreed.version() == version.name.replace("v1_", "v1.")
        await wire.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_an_old_version_is_refused(settings: Settings, authority: trustme.CA) -> None:
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(settings) as proxy:
        # asyncio breaks off without the alert.
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await Wire.open(proxy.address, context=context)
        assert await _count(proxy, trusting(authority), Reason.BAD_REQUEST) == 1


async def test_a_new_certificate_is_taken_while_connections_go_on(
    settings: Settings, pair: Pair, authority: trustme.CA
) -> None:
    other = trustme.CA()
    async with served(settings) as proxy:
        before = await Wire.open(proxy.address, context=trusting(authority))
        pair.write(other)
        while not await _greeted(proxy, other):
            pass
        before.send(PING)
        assert parse_reply(await before.rest()).status == 200
        await before.close()
        assert not await _greeted(proxy, authority)


async def _greeted(proxy: RunningProxy, authority: trustme.CA) -> bool:
    """Whether the proxy's certificate is of that authority."""
    return await _status(proxy, trusting(authority)) is not None


async def _status(proxy: RunningProxy, context: ssl.SSLContext) -> int | None:
    """What a client gets; None if the proxy's certificate is not of an authority it trusts."""
    try:
        reply = await exchange(proxy.address, PING, context=context)
    except ssl.SSLCertVerificationError:
        return None
    return parse_reply(reply).status


async def test_a_broken_certificate_leaves_the_old_one_in_use(
    settings: Settings, pair: Pair, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(settings) as proxy:
        Pair.put(pair.cert, b"garbage")
        while "goes on with the certificate" not in caplog.text:
            assert await _greeted(proxy, authority)
        assert await _greeted(proxy, authority)


async def test_a_clients_certificate_is_optional_and_one_of_a_stranger_refused(
    settings: Settings, pair: Pair, authority: trustme.CA, tmp_path: Path
) -> None:
    clients = trustme.CA()
    client_ca = tmp_path / "clients.crt"
    clients.cert_pem.write_to_path(str(client_ca))
    async with served(replace(settings, tls=pair.settings(client_ca))) as proxy:
        assert await _status(proxy, trusting(authority)) == 401  # and not before it has asked
        known = trusting(authority)
        clients.issue_cert(common_name="builder").configure_cert(known)
        assert await _status(proxy, known) == 200
        stranger = trusting(authority)
        trustme.CA().issue_cert(common_name="builder").configure_cert(stranger)
        with suppress(ssl.SSLError, ConnectionResetError):
            assert await exchange(proxy.address, PING, context=stranger) == b""
        assert await _count(proxy, known, Reason.BAD_REQUEST) == 1


async def test_a_connection_ends_whose_clients_authority_is_trusted_no_more(
    settings: Settings, pair: Pair, authority: trustme.CA, tmp_path: Path
) -> None:
    """A new certificate of the proxy's own changes nothing for those who are connected."""
    clients, client_ca = trustme.CA(), tmp_path / "clients.crt"
    Pair.put(client_ca, clients.cert_pem.bytes())
    known = trusting(authority)
    clients.issue_cert(common_name="builder").configure_cert(known)
    async with served(replace(settings, tls=pair.settings(client_ca))) as proxy:
        wire = await Wire.open(proxy.address, context=known)
        other = trustme.CA()
        pair.write(other)
        while not await _greeted(proxy, other):
            pass
        wire.send(KEEP)
        assert (await wire.one_reply()).status == 200
        Pair.put(client_ca, trustme.CA().cert_pem.bytes())
        pair.write(authority)  # after the other: whoever sees this one knows that both are taken
        while not await _greeted(proxy, authority):
            pass
        wire.send(KEEP)
        assert parse_reply(await wire.rest()).status == 401
        await wire.close()


async def test_a_handshake_that_does_not_come_is_given_up(
    settings: Settings, authority: trustme.CA
) -> None:
    limits = LimitSettings(header_timeout=SOON, max_connections=2)
    async with served(replace(settings, limits=limits)) as proxy:
        for _ in range(3):
            wire = await Wire.open(proxy.address)  # says nothing
            assert await wire.rest() == b""
            await wire.close()
        assert await _count(proxy, trusting(authority), Reason.HEADER_TIMEOUT) == 3


async def test_a_handshake_counts_as_a_connection(
    settings: Settings, authority: trustme.CA
) -> None:
    limits = LimitSettings(max_connections_per_client=1)
    async with served(replace(settings, limits=limits)) as proxy:
        silent = await Wire.open(proxy.address)
        reply = parse_reply(await exchange(proxy.address, PING, context=trusting(authority)))
        assert (reply.status, reply.code) == (429, "TOOMANYREQUESTS")
        await silent.close()


async def test_a_client_that_reads_nothing_over_tls_is_given_up(
    settings: Settings, standin: StandIn, authority: trustme.CA
) -> None:
    Cache.of(LARGE).seed(standin, "app", "cache")
    path = f"/v2/app/blobs/{Digest.of(LARGE)}"
    async with served(replace(settings, limits=LimitSettings(send_timeout=SOON))) as proxy:
        for times in (1, 2):
            wire = await Wire.open(proxy.address, context=trusting(authority))
            transport = wire.writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while await _count(proxy, trusting(authority), Reason.SEND_TIMEOUT) < times:
                pass
            transport.abort()


async def _count(proxy: RunningProxy, context: ssl.SSLContext, reason: Reason) -> float:
    ask = PING.replace(b"/v2/", b"/metrics")
    reply = parse_reply(await exchange(proxy.address, ask, context=context))
    name = f'ecr_cache_proxy_refusals_total{{reason="{reason}"}} '
    return float(reply.body.decode().partition(name)[2].partition("\n")[0])


async def test_files_that_cannot_be_used_are_named_at_the_start(
    settings: Settings, pair: Pair
) -> None:
    pair.key.unlink()
    with pytest.raises(StartError, match=f"tls-key-file: {pair.key}"):
        async with running(settings):
            pass


async def test_a_stop_waits_for_a_request_over_tls(
    settings: Settings, standin: StandIn, authority: trustme.CA
) -> None:
    async with served(settings) as proxy:
        context = trusting(authority)
        begun = parse_reply(
            await exchange(
                proxy.address,
                b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n",
                context=context,
            )
        )
        where = begun.headers["Location"]
        wire = await Wire.open(proxy.address, context=context)
        wire.send(
            f"PATCH {where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha".encode()
        )
        # Answered after the first half has been read, on a connection of its own.
        await exchange(proxy.address, PING.replace(b"/v2/", where.encode()), context=context)
        stopping = asyncio.create_task(proxy.stop(close_client=False))
        await asyncio.sleep(0)
        wire.send(b"lf")
        assert parse_reply(await wire.rest()).status == 202
        await wire.close()
        await stopping
