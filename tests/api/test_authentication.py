"""Who is let in over HTTP: the challenge, what is open without it, and what a refusal costs."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.access.attempts import MAX_FAILURES
from proxy.access.tokens import token_line
from proxy.app import Timing
from proxy.config import AccessSettings, RegistrySettings, RuleSettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import Digest
from proxy.standin import StandIn
from tests.access.files import Htpasswd, basic
from tests.api.clients import connection, logged_in
from tests.clocks import Clock
from tests.running import Answer, Client, RunningProxy, running, settings_for

TOKEN = "ecp_" + "A1-_" * 10 + "xyz"
ALICE = {"Authorization": basic("alice", "wonderland")}
D = Digest.of(b"x")
MIB = 1024 * 1024


@pytest.fixture
def htpasswd(tmp_path: Path) -> Htpasswd:
    return Htpasswd(tmp_path / "htpasswd", {"alice": "wonderland", "bob": "builder"})


@pytest.fixture
async def proxy(
    standin: StandIn, htpasswd: Htpasswd, clock: Clock, tmp_path: Path
) -> AsyncIterator[RunningProxy]:
    """As the others' `proxy`, for users alone. Time goes on by the clock."""
    (tmp_path / "tokens").write_text(token_line("ci", TOKEN))
    access = AccessSettings(htpasswd_file=htpasswd.path, token_file=tmp_path / "tokens")
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    timing = Timing(clock=clock, now=clock)
    async with running(replace(settings, access=access), timing=timing) as proxy:
        yield proxy


def refusals(metrics: Answer) -> dict[str, int]:
    prefix = 'ecr_cache_proxy_refusals_total{reason="'
    lines = [line for line in metrics.body.decode().splitlines() if line.startswith(prefix)]
    return {
        reason: int(float(number))
        for reason, number in (line.removeprefix(prefix).split('"} ') for line in lines)
    }


EVERYTHING = [
    *(("GET", path) for path in ("/v2/", "/v2", "/v2/_catalog", "/metrics", "/", "/other")),
    *(("GET", f"/v2/app/{rest}") for rest in ("tags/list", "manifests/1", f"blobs/{D}")),
    *(("HEAD", f"/v2/app/{rest}") for rest in ("manifests/1", f"blobs/{D}")),
    *(("DELETE", f"/v2/app/{rest}") for rest in ("manifests/1", f"blobs/{D}")),
    *(("GET", path) for path in (f"/v2/app/referrers/{D}", "/v2/app/blobs/uploads/x")),
    *(("POST", path) for path in ("/v2/app/blobs/uploads/", "/livez", "/livez/", "/readyz")),
    *((method, "/v2/app/blobs/uploads/x") for method in ("PATCH", "PUT", "DELETE")),
    *(("PUT", path) for path in ("/v2/app/manifests/1", "/v2/../v2/")),
    *(("GET", path) for path in ("/%76%32/", "/v2/?ns=x", "/livez/../v2/", "/v2/%2e%2e/livez")),
]


async def test_nothing_is_answered_before_a_client_has_said_who_it_is(
    proxy: RunningProxy, standin: StandIn
) -> None:
    await proxy.until(Kind.TOKEN)
    seen = len(standin.requests)
    for method, path in EVERYTHING:
        got = await proxy.client.ask(method, path)
        assert got.status == 401, (method, path)
        assert got.headers["WWW-Authenticate"] == 'Basic realm="ecr-cache-proxy"'
        assert got.headers["Ecr-Cache-Proxy-Error"].startswith("UNAUTHORIZED: ")
        if method != "HEAD":
            assert json.loads(got.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert len(standin.requests) == seen


CREDENTIALS = [
    (basic("alice", "wonderland"), 200),
    (basic("ci", TOKEN), 200),
    (basic("token", TOKEN), 200),
    (f"Bearer {TOKEN}", 200),
    (basic("alice", "wrong"), 401),
    (basic("alice", TOKEN), 401),
    (basic("nobody", "wonderland"), 401),
    ("Bearer wrong", 401),
    ("Basic", 401),
    ("Basic !!!", 401),
    ("Basic " + "A" * 60_000, 401),
    ("Basic /////w==", 401),
    ("Digest x", 401),
    ("Bearer \xff\xfe", 401),
    ("", 401),
]


async def test_each_method_lets_in_and_nothing_else_does(proxy: RunningProxy) -> None:
    for header, status in CREDENTIALS:
        got = await proxy.client.ask("GET", "/v2/", headers={"Authorization": header})
        assert got.status == status, header[:80]
        assert ("WWW-Authenticate" in got.headers) is (status == 401)


async def test_two_authorization_headers_are_none(proxy: RunningProxy) -> None:
    """Whoever else reads the request might take the other one."""
    async with connection(proxy) as (reader, writer):
        both = "".join(f"Authorization: {basic('alice', p)}\r\n" for p in ("wonderland", "x"))
        writer.write(f"GET /v2/ HTTP/1.1\r\nHost: proxy\r\n{both}\r\n".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401 ")


async def test_a_user_pushes_and_pulls(proxy: RunningProxy, standin: StandIn) -> None:
    async with logged_in(proxy, "alice", "wonderland") as alice:
        digest = await alice.push_blob("app", b"content")
    async with logged_in(proxy, "ci", TOKEN) as ci:
        assert (await ci.ask("GET", f"/v2/app/blobs/{digest}")).body == b"content"
    sent = {value for request in standin.requests for _, value in request.headers}
    assert sent
    assert not {basic("alice", "wonderland"), basic("ci", TOKEN)} & sent


async def test_an_upload_is_gone_on_with_by_its_user_alone(proxy: RunningProxy) -> None:
    """Its location stands in logs; and it is the other user's bytes that would be pushed."""
    async with (
        logged_in(proxy, "alice", "wonderland") as alice,
        logged_in(proxy, "bob", "builder") as bob,
    ):
        begun = await alice.ask("POST", "/v2/app/blobs/uploads/")
        where = begun.headers["Location"]
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            path = f"{where}?digest={D}" if method == "PUT" else where
            got = await bob.ask(method, path, body=b"x" if method in ("PATCH", "PUT") else None)
            assert (got.status, b"BLOB_UPLOAD_UNKNOWN" in got.body) == (404, True), method
        assert (await alice.ask("PATCH", where, body=b"")).status == 202
        assert (await alice.ask("PUT", f"{where}?digest={D}", body=b"x")).status == 201


async def test_probes_need_no_login_and_tell_nothing(
    proxy: RunningProxy, caplog: pytest.LogCaptureFixture
) -> None:
    await proxy.until(Kind.TOKEN)
    assert (await proxy.client.ask("GET", "/livez")).body == b'{"status":"ok"}'
    assert (await proxy.client.ask("GET", "/readyz")).body == b'{"status": "ok"}'
    known = await proxy.client.ask("GET", "/readyz", headers=ALICE)
    assert json.loads(known.body) == {"status": "ok", "registries": {}}
    wrong = {"Authorization": basic("alice", "wrong")}
    assert (await proxy.client.ask("GET", "/readyz", headers=wrong)).status == 401


async def test_why_the_proxy_is_not_ready_is_for_users_and_the_log(
    standin: StandIn, htpasswd: Htpasswd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = replace(registry_of(standin), access_key_id=None, profile="no-such-profile")
    settings = settings_for(registry, cache_dir=tmp_path / "cache")
    locked = replace(settings, access=AccessSettings(htpasswd_file=htpasswd.path))
    async with running(locked) as proxy:
        for _ in range(2):
            got = await proxy.client.ask("GET", "/readyz")
            assert (got.status, got.body) == (503, b'{"status": "unavailable"}')
        told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("not ready")]
        assert len(told) == 1
        assert standin.host in told[0]
        assert "no-such-profile" in told[0]
        known = await proxy.client.ask("GET", "/readyz", headers=ALICE)
        assert list(json.loads(known.body)["registries"]) == [standin.host]
    rules = (RuleSettings(users=("bob",), repositories=("*",), allow=frozenset({"pull"})),)
    ruled = replace(locked, access=replace(locked.access, rules=rules))
    async with running(ruled) as proxy:
        for user, names in (("alice", []), ("bob", [standin.host])):
            password = {"alice": "wonderland", "bob": "builder"}[user]
            headers = {"Authorization": basic(user, password)}
            known = await proxy.client.ask("GET", "/readyz", headers=headers)
            assert list(json.loads(known.body)["registries"]) == names
    async with running(replace(settings, cache_dir=tmp_path / "open")) as proxy:
        unlocked = await proxy.client.ask("GET", "/readyz")
        assert list(json.loads(unlocked.body)["registries"]) == [standin.host]


async def test_metrics_are_for_users_and_count_what_is_refused(proxy: RunningProxy) -> None:
    for _ in range(3):
        assert (await proxy.client.ask("GET", "/metrics")).status == 401
    metrics = await proxy.client.ask("GET", "/metrics", headers=ALICE)
    assert metrics.status == 200
    assert refusals(metrics)["unauthenticated"] == 3


async def test_guessing_ends_in_429_and_shuts_out_nobody_who_is_known(proxy: RunningProxy) -> None:
    async with logged_in(proxy, "alice", "wonderland") as alice:
        assert (await alice.ask("GET", "/v2/")).status == 200
        for n in range(MAX_FAILURES + 1):
            header = {"Authorization": basic("bob", f"guess {n}")}
            got = await proxy.client.ask("GET", "/v2/", headers=header)
        assert got.status == 429
        assert 0 < int(got.headers["Retry-After"]) <= 60
        assert json.loads(got.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
        assert (await proxy.client.ask("GET", "/v2/")).status == 401  # the challenge, as ever
        assert (await alice.ask("GET", "/v2/")).status == 200
        counted = refusals(await alice.ask("GET", "/metrics"))
    assert counted["attempts"] == 1
    assert counted["unauthenticated"] == MAX_FAILURES + 1


async def test_limits_of_clients_are_by_user(
    proxy: RunningProxy, htpasswd: Htpasswd, tmp_path: Path
) -> None:
    limits = replace(proxy.settings.limits, max_uploads_per_client=1)
    settings = replace(proxy.settings, limits=limits, cache_dir=tmp_path / "limited")
    async with (
        running(settings) as limited,
        logged_in(limited, "alice", "wonderland") as alice,
        logged_in(limited, "bob", "builder") as bob,
    ):
        for client in (alice, bob):
            statuses = [
                (await client.ask("POST", "/v2/app/blobs/uploads/")).status for _ in range(2)
            ]
            assert statuses == [202, 429]


async def test_files_count_as_soon_as_they_change(
    proxy: RunningProxy, htpasswd: Htpasswd, clock: Clock
) -> None:
    async with logged_in(proxy, "alice", "wonderland") as alice:
        assert (await alice.ask("GET", "/v2/")).status == 200
        htpasswd.remove("alice")
        clock.now += 2
        assert (await alice.ask("GET", "/v2/")).status == 401
        htpasswd.set("alice", "wonderland")
        clock.now += 2
        assert (await alice.ask("GET", "/v2/")).status == 200
        htpasswd.path.write_text("alice:{SHA}broken\n")
        clock.now += 2
        assert (await alice.ask("GET", "/v2/")).status == 200


@pytest.mark.parametrize("length", ["Content-Length: 10000000000", "Transfer-Encoding: chunked"])
async def test_a_client_that_asks_first_is_refused_before_it_sends_anything(
    proxy: RunningProxy, length: str
) -> None:
    async with connection(proxy) as (reader, writer):
        head = "PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}{length}\r\n\r\n".encode())
        reply = await reader.read()  # to the end: the connection is closed
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"100 Continue" not in reply


async def test_a_client_that_asks_first_is_told_to_go_on_when_it_is_let_in(
    proxy: RunningProxy,
) -> None:
    async with logged_in(proxy, "alice", "wonderland") as alice:
        begun = await alice.ask("POST", "/v2/app/blobs/uploads/")
        path = f"{begun.headers['Location']}?digest={D}"
        async with alice.session.put(alice.url_of(path), data=b"x", expect100=True) as done:
            assert done.status == 201
        # By hand: nothing of the reply comes before the body.
        async with connection(proxy) as (reader, writer):
            head = "PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nContent-Length: 2\r\n"
            login = f"Authorization: {ALICE['Authorization']}\r\nExpect: 100-Continue\r\n"
            kind = "Content-Type: application/vnd.oci.image.index.v1+json\r\n"
            writer.write(f"{head}{login}{kind}\r\n".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 4")


async def test_a_body_that_is_too_large_is_refused_before_the_client_is_told_to_send_it(
    proxy: RunningProxy,
) -> None:
    async with connection(proxy) as (reader, writer):
        head = f"PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nContent-Length: {5 * MIB}\r\n"
        login = f"Authorization: {ALICE['Authorization']}\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}{login}\r\n".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")


PUT = "PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nContent-Length: {}\r\n\r\n"


async def test_the_body_of_a_refused_request_is_not_read(proxy: RunningProxy) -> None:
    taken = 0
    async with connection(proxy) as (reader, writer):
        writer.write(PUT.format(1 << 40).encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401 ")
        with suppress(ConnectionError):
            while taken < 256 * MIB:
                writer.write(b"x" * MIB)
                await writer.drain()
                taken += MIB
    # What a moment's patience and the buffers of both sides hold.
    assert taken < 32 * MIB


async def test_a_refused_client_reads_the_reply_though_it_has_sent_more(
    proxy: RunningProxy,
) -> None:
    """A connection that is closed with bytes unread is reset, and the reply lost with it."""
    async with connection(proxy) as (reader, writer):
        writer.write(PUT.format(MIB).encode() + b"x" * (512 * 1024))
        reply = await reader.read()  # to the end
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in reply.lower()


async def test_the_log_names_the_user_and_no_client_can_forge_a_line(
    proxy: RunningProxy, htpasswd: Htpasswd, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy.access_log")
    htpasswd.set('eve "x', "secret word")
    clock.now += 2
    agents = ["plain/1", 'a" 200 0 "x\\', "a\tb", "\xa0\xad"]
    async with logged_in(proxy, 'eve "x', "secret word") as eve:
        for agent in agents:
            await eve.ask("GET", "/v2/app/tags/list?token=secret", headers={"User-Agent": agent})
    await proxy.client.ask("GET", "/v2/a%0a%22b/tags/list", headers={"User-Agent": "x" * 5000})
    lines = [r.getMessage() for r in caplog.records if r.name == "proxy.access_log"]
    shown = ["plain/1", r"a\" 200 0 \"x\\", r"a\tb"]
    for line, agent in zip(lines, shown, strict=False):
        assert line.startswith(r'127.0.0.1 - eve\x20\"x "GET /v2/app/tags/list" 200 ')
        assert line.endswith(f' "{agent}"')
    assert lines[-1].startswith('127.0.0.1 - - "GET /v2/a%0a%22b/tags/list" 401 ')
    assert all(line.isprintable() and "secret" not in line for line in lines)
    assert max(map(len, lines)) < 1000


async def test_without_authentication_nothing_changes(standin: StandIn, tmp_path: Path) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(settings) as proxy:
        assert (await proxy.client.ask("GET", "/v2/", headers=ALICE)).status == 200
        assert (await proxy.client.ask("GET", "/metrics")).status == 200
        client = Client(f"http://{proxy.address}")
        await client.push_blob("app", b"content")
        await client.close()


async def test_a_sidecar_logs_in_to_the_proxy_of_the_lan(
    proxy: RunningProxy, tmp_path: Path
) -> None:
    lan = RegistrySettings(
        name=proxy.address, url=f"http://{proxy.address}", username="ci", password=TOKEN
    )
    async with running(settings_for(lan, cache_dir=tmp_path / "sidecar")) as sidecar:
        digest = await sidecar.client.push_blob("app", b"content")
        await sidecar.until_upstream(digest)
        # Its own clients need not say who they are, and what they say stays there.
        got = await sidecar.client.ask("GET", "/v2/app/tags/list", headers=ALICE)
        assert got.status == 200
    wrong = replace(lan, password="wrong")
    async with running(settings_for(wrong, cache_dir=tmp_path / "wrong")) as sidecar:
        got = await sidecar.client.ask("GET", "/v2/app/tags/list", headers=ALICE)
        assert got.status >= 500, "the sidecar's own login is no affair of its clients"
        assert "WWW-Authenticate" not in got.headers
