"""Clients that show a certificate: who is let in by it over TLS."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme

from proxy.config import AccessSettings, RuleSettings, TlsSettings
from proxy.demo import registry_of
from proxy.standin import StandIn
from tests.access.files import Htpasswd, basic
from tests.running import RunningProxy, running, settings_for

RULES = (
    RuleSettings(users=("robot",), repositories=("*",), allow=frozenset({"pull", "push"})),
    RuleSettings(users=("alice",), repositories=("*",), allow=frozenset({"pull"})),
)


@pytest.fixture(scope="module")
def server() -> trustme.CA:
    """Who has signed the proxy's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs those of clients."""
    return trustme.CA()


@pytest.fixture
async def proxy(
    standin: StandIn, server: trustme.CA, authority: trustme.CA, tmp_path: Path
) -> AsyncIterator[RunningProxy]:
    made = server.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(str(tmp_path / "key"))
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate"))
    authority.cert_pem.write_to_path(str(tmp_path / "authority"))
    tls = TlsSettings(
        cert_file=tmp_path / "certificate",
        key_file=tmp_path / "key",
        client_ca_file=tmp_path / "authority",
    )
    htpasswd = Htpasswd(tmp_path / "htpasswd", {"alice": "wonderland"})
    access = AccessSettings(htpasswd_file=htpasswd.path, rules=RULES)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(replace(settings, tls=tls, access=access)) as proxy:
        yield proxy


async def ask(
    proxy: RunningProxy,
    server: trustme.CA,
    certificate: trustme.LeafCert | None,
    method: str = "GET",
    path: str = "/v2/",
    login: str | None = None,
) -> tuple[int, str]:
    """Status and body of the reply to a client with that certificate and that login."""
    context = ssl.create_default_context()
    server.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    headers = {} if login is None else {"Authorization": login}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.request(method, f"https://{proxy.address}{path}", headers=headers) as reply,
    ):
        return reply.status, await reply.text()


async def test_a_certificate_is_its_user(
    proxy: RunningProxy,
    server: trustme.CA,
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "proxy.access_log")
    robot = authority.issue_cert("client.example", common_name="robot")
    assert (await ask(proxy, server, robot))[0] == 200
    started = await ask(proxy, server, robot, "POST", "/v2/app/blobs/uploads/")
    assert started[0] == 202
    assert any(
        ' - robot "POST /v2/app/blobs/uploads/" 202 ' in record.getMessage()
        for record in caplog.records
    )


async def test_a_login_decides_where_there_is_one(
    proxy: RunningProxy, server: trustme.CA, authority: trustme.CA
) -> None:
    robot = authority.issue_cert("client.example", common_name="robot")
    alice = basic("alice", "wonderland")
    assert (await ask(proxy, server, robot, login=alice))[0] == 200
    denied = await ask(proxy, server, robot, "POST", "/v2/app/blobs/uploads/", alice)
    assert denied[0] == 403
    assert "the user alice may not push" in denied[1]
    assert (await ask(proxy, server, robot, login=basic("alice", "wrong")))[0] == 401
    assert (await ask(proxy, server, None, login=alice))[0] == 200


async def test_no_certificate_and_one_without_a_user_are_no_login(
    proxy: RunningProxy, server: trustme.CA, authority: trustme.CA
) -> None:
    status, told = await ask(proxy, server, None)
    assert status == 401
    assert "connect with a certificate of yours" in told
    nameless = authority.issue_cert("client.example")
    status, told = await ask(proxy, server, nameless)
    assert status == 401
    assert "has no names of the kind that says who the user is (common name)" in told


async def test_a_certificate_of_somebody_elses_authority_is_no_login(
    proxy: RunningProxy, server: trustme.CA
) -> None:
    forged = trustme.CA().issue_cert("client.example", common_name="robot")
    with pytest.raises(aiohttp.ClientError):
        await ask(proxy, server, forged)
    # That which has signed the proxy's own is none for clients.
    with pytest.raises(aiohttp.ClientError):
        await ask(proxy, server, server.issue_cert("client.example", common_name="robot"))
