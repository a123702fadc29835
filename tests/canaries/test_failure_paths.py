"""Each way in which things go wrong, walked with secrets on both sides, and seen to be watched.

Secrets come out where nobody expects anything to be said: in errors. A path counts as walked when
the proxy has replied, logged or refused as the test says, and the watch has read that; the watch
itself fails the test if there was a secret in it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.access.tokens import token_line
from proxy.app import Timing
from proxy.config import AccessSettings, RegistrySettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Denial, Fault, Role, StandIn, StandInSettings
from proxy.standin.settings import MARK
from proxy.upstream import Tuning
from tests.access.files import Htpasswd
from tests.caches import Cache
from tests.canaries.values import (
    BEARER_HEADERS,
    CLIENT_HEADERS,
    HTPASSWD_PASSWORD,
    PROXY_TOKEN,
    REGISTRY_PASSWORD,
    UPSTREAM_TOKEN,
)
from tests.canaries.watch import WATCH
from tests.cli.process import started
from tests.running import Answer, Client, RunningProxy, running, settings_for
from tests.upstream.fakes import Answer as Told
from tests.upstream.fakes import FakeServer

BLOB = b"a layer that nobody gets"
CACHE = Cache.of(BLOB)
BLOB_PATH = f"/v2/app/blobs/{Digest.of(BLOB)}"
TAG_PATH = "/v2/app/manifests/latest"
QUICK = Timing(tuning=Tuning(first_pause=0.01, patience=0.2, push_patience=0.2, between=0.01))
# As S3's, and of nobody.
SIGNED = f"X-Amz-Security-Token=a%2B%2F{MARK}TOKNS3%3D&X-Amz-Signature={MARK}SIGNS3"


@pytest.fixture
def walked() -> Callable[[str], int]:
    """How often a path, or a channel, was met since the test began."""
    before = WATCH.walked + WATCH.searched

    def since(name: str) -> int:
        return (WATCH.walked + WATCH.searched)[name] - before[name]

    return since


@asynccontextmanager
async def proxy_of(
    standin: StandIn, folder: Path, timing: Timing = QUICK
) -> AsyncIterator[RunningProxy]:
    CACHE.seed(standin, "app", "latest")
    settings = settings_for(registry_of(standin), cache_dir=folder / "cache")
    async with running(settings, timing=timing) as proxy:
        yield proxy


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with proxy_of(standin, tmp_path) as proxy:
        await proxy.until(Kind.TOKEN)
        yield proxy


async def all_ways(proxy: RunningProxy) -> Counter[int]:
    """Asks everything that goes upstream; how often each status was the answer."""
    asked = [
        ("GET", BLOB_PATH),
        ("HEAD", BLOB_PATH),
        ("GET", TAG_PATH),
        ("HEAD", TAG_PATH),
        ("GET", "/v2/app/tags/list"),
        ("GET", "/v2/_catalog"),
        ("DELETE", TAG_PATH),
    ]
    statuses = Counter[int]()
    for headers in (CLIENT_HEADERS, BEARER_HEADERS):
        for method, path in asked:
            statuses[(await proxy.client.ask(method, path, headers=headers)).status] += 1
        pushed = await push(proxy.client)
        statuses[pushed.status] += 1
    statuses[(await proxy.client.ask("GET", "/readyz")).status] += 1
    statuses[(await proxy.client.ask("GET", "/metrics")).status] += 1
    return statuses


async def push(client: Client) -> Answer:
    """A manifest of which nothing is there: it is refused in any case."""
    descriptor = {"mediaType": "a/b", "digest": Digest.of(b"gone"), "size": 4}
    content = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": []}
    return await client.push_manifest("app", "t", json.dumps(content).encode(), OCI_MANIFEST)


# Upstream refuses, or fails


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(server="registry", status=401, times=None), id="401"),
        pytest.param(Fault(server="registry", status=403, times=None), id="403"),
        pytest.param(Fault(server="registry", status=429, times=None), id="429"),
        pytest.param(Fault(server="registry", status=500, times=None), id="500"),
        pytest.param(Fault(server="registry", status=503, times=None), id="503"),
        pytest.param(Fault(server="registry", reset=True, times=None), id="reset"),
        pytest.param(Fault(server="registry", status=302, times=None), id="redirect to nowhere"),
    ],
)
async def test_a_registry_that_fails_at_everything(
    fault: Fault, proxy: RunningProxy, standin: StandIn, walked: Callable[[str], int]
) -> None:
    standin.faults.add(fault)
    statuses = await all_ways(proxy)
    assert statuses[200] <= 2  # of the proxy itself
    assert walked("replies") >= sum(statuses.values())
    assert walked("replies 5xx") >= (0 if fault.status in {403, 429} else 1)
    assert walked("replies 403") >= (1 if fault.status == 403 else 0)


async def test_tokens_that_expire_faster_than_they_are_used(
    standin: StandIn, proxy: RunningProxy, walked: Callable[[str], int]
) -> None:
    standin.state.tokens.lifetime = -1.0
    standin.state.expire_tokens()
    statuses = await all_ways(proxy)
    assert statuses[200] <= 2
    assert walked("replies 403") + walked("replies 5xx") >= sum(statuses.values()) - 2


async def test_keys_that_aws_refuses(
    standin: StandIn, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    """The key id and the secret are canaries too: only not those of the stand-in's user."""
    keys = standin.settings
    wrong = replace(
        registry_of(standin),
        access_key_id=keys.role_key_id,
        secret_access_key=keys.secret_access_key,
    )
    settings = settings_for(wrong, cache_dir=tmp_path / "cache")
    async with running(settings, timing=QUICK) as proxy:
        await all_ways(proxy)
    assert walked("replies 5xx")


async def test_a_signature_that_aws_refuses(
    standin: StandIn, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    wrong = replace(registry_of(standin), secret_access_key=standin.settings.role_secret)
    settings = settings_for(wrong, cache_dir=tmp_path / "cache")
    async with running(settings, timing=QUICK) as proxy:
        await all_ways(proxy)
    assert walked("replies 5xx")


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_role_whose_session_token_signs_or_that_is_refused(
    is_known: bool, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    arn = "arn:aws:iam::123456789012:role/puller"
    denied = (Denial("ecr:*", principal="*assumed-role*"),)
    settings = StandInSettings(
        repositories=("app",), roles=(Role(arn),) if is_known else (), denials=denied
    )
    async with StandIn(settings) as standin:
        registry = replace(registry_of(standin), role_arn=arn)
        settings_ = settings_for(registry, cache_dir=tmp_path / "cache")
        async with running(settings_, timing=QUICK) as proxy:
            statuses = await all_ways(proxy)
    assert sum(statuses[status] for status in (403, 502, 503))
    assert walked("replies") >= sum(statuses.values())


async def test_actions_that_a_policy_denies(tmp_path: Path, walked: Callable[[str], int]) -> None:
    names = ("BatchGetImage", "GetDownloadUrlForLayer", "PutImage", "ListImages")
    settings = StandInSettings(
        repositories=("app",), denials=tuple(Denial(f"ecr:{name}") for name in names)
    )
    async with StandIn(settings) as standin, proxy_of(standin, tmp_path) as proxy:
        statuses = await all_ways(proxy)
    assert statuses[403]
    assert walked("replies 403") == statuses[403]


# Storage refuses, or fails


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(server="s3", status=400, times=None), id="400"),
        pytest.param(Fault(server="s3", status=403, times=None), id="403"),
        pytest.param(Fault(server="s3", status=404, times=None), id="404"),
        pytest.param(Fault(server="s3", status=500, times=None), id="500"),
        pytest.param(Fault(server="s3", status=503, times=None), id="503"),
        pytest.param(Fault(server="s3", reset=True, times=None), id="reset"),
        pytest.param(Fault(server="s3", cut_after=3, times=None), id="cut off"),
        pytest.param(Fault(server="s3", corrupt_at=3, times=None), id="other bytes"),
    ],
)
async def test_storage_that_fails_at_everything(
    fault: Fault, proxy: RunningProxy, standin: StandIn, walked: Callable[[str], int]
) -> None:
    armed = standin.faults.add(fault)
    try:
        got = await proxy.client.ask("GET", BLOB_PATH)
    except aiohttp.ClientPayloadError:  # it had begun
        assert fault.cut_after or fault.corrupt_at
    else:
        assert got.status >= 400
    assert armed.hits
    assert walked("replies")
    assert walked("log")


@pytest.mark.parametrize("status", [400, 403])
async def test_a_url_that_has_expired_when_it_is_used(
    status: int, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    settings = StandInSettings(repositories=("app",), expired_url_status=status)
    async with StandIn(settings) as standin, proxy_of(standin, tmp_path) as proxy:
        held = standin.faults.add(Fault(server="s3", hold=True, times=None))
        asking = asyncio.create_task(proxy.client.ask("GET", BLOB_PATH))
        await held.reached.wait()
        standin.state.clock.advance(2 * settings.url_lifetime)
        held.release()
        assert (await asking).body == BLOB
        assert status in {request.status for request in standin.requests if request.server == "s3"}
    assert walked("replies")


# Redirects


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.close()


@pytest.mark.parametrize(
    ("location", "code"),
    [
        (f"https://elsewhere.example/blob?{SIGNED}", 307),
        (f"http://169.254.169.254/latest/meta-data/?{SIGNED}", 307),
        (f"https://[fe80::1]/blob?{SIGNED}", 302),
        (f"ftp://127.0.0.1/blob?{SIGNED}", 307),
        (f"https://user:pass@127.0.0.1/blob?{SIGNED}", 307),
        (f"//elsewhere.example/blob?{SIGNED}", 308),
        (f"https://elsewhere.example:99999/blob?{SIGNED}", 307),
        (f"blob with spaces?{SIGNED}", 307),
    ],
)
async def test_a_redirect_that_is_refused(
    location: str,
    code: int,
    registry: FakeServer,
    tmp_path: Path,
    walked: Callable[[str], int],
) -> None:
    for path in (BLOB_PATH, TAG_PATH):
        for method in ("GET", "HEAD"):
            registry.tell(method, path, Told(code, headers={"Location": location}))
    target = RegistrySettings(
        name=registry.host, url=registry.url, username="me", password=REGISTRY_PASSWORD
    )
    async with running(settings_for(target, cache_dir=tmp_path), timing=QUICK) as proxy:
        for path in (BLOB_PATH, TAG_PATH):
            got = await proxy.client.ask("GET", path)
            assert got.status == 502, got
    assert walked("refused redirects") >= 2
    assert walked("replies 5xx") >= 2


@pytest.mark.parametrize("name", ["elsewhere.example", "127.0.0.1:1"])
async def test_an_upload_that_is_sent_elsewhere(
    name: str, registry: FakeServer, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    start = "/v2/app/blobs/uploads/"
    registry.tell("POST", start, Told(202, headers={"Location": f"http://{name}/up?{SIGNED}"}))
    target = RegistrySettings(
        name=registry.host,
        url=registry.url,
        username="me",
        password=REGISTRY_PASSWORD,
        push_mode="write-through",
    )
    async with running(settings_for(target, cache_dir=tmp_path), timing=QUICK) as proxy:
        begun = await proxy.client.ask("POST", start)
        if begun.status == 202:
            path = f"{begun.headers['Location']}?digest={Digest.of(BLOB)}"
            begun = await proxy.client.ask("PUT", path, body=BLOB)
        assert begun.status >= 500, begun
    assert walked("replies 5xx")


# Other registries: their passwords and their tokens


@pytest.mark.parametrize("status", [400, 401, 403, 500])
async def test_a_registry_that_says_again_what_it_was_sent(
    status: int, registry: FakeServer, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    """Some debug page, or a WAF: the password comes back in the words that clients are given."""

    async def repeat(request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "")
        plain = base64.b64decode(sent.partition(" ")[2]).decode()
        said = f"you sent {sent}, which is {plain}, for {request.raw_path}"
        errors = {"errors": [{"code": "DENIED", "message": said}]}
        return web.json_response(errors, status=status)

    for method, path in (("GET", BLOB_PATH), ("GET", TAG_PATH), ("HEAD", TAG_PATH)):
        registry.tell(method, path, repeat)
    target = RegistrySettings(
        name=registry.host, url=registry.url, username="me", password=REGISTRY_PASSWORD
    )
    async with running(settings_for(target, cache_dir=tmp_path), timing=QUICK) as proxy:
        for path in (BLOB_PATH, TAG_PATH):
            assert (await proxy.client.ask("GET", path)).status >= 400
    assert any(seen.authorization for seen in registry.seen)
    assert walked("replies") >= 2


@pytest.mark.parametrize("is_good", [True, False])
async def test_a_registry_with_tokens_that_it_takes_or_refuses(
    is_good: bool, registry: FakeServer, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    challenge = f'Bearer realm="{registry.url}/token",service="s",scope="repository:app:pull"'

    async def answer(request: web.Request) -> web.StreamResponse:
        if is_good and request.headers.get("Authorization") == f"Bearer {UPSTREAM_TOKEN}":
            return web.Response(body=b"{}", content_type=OCI_MANIFEST)
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(request: web.Request) -> web.StreamResponse:
        return web.json_response({"token": UPSTREAM_TOKEN})

    registry.tell("GET", TAG_PATH, answer)
    registry.tell("HEAD", TAG_PATH, answer)
    registry.tell("GET", "/token?service=s&scope=repository%3Aapp%3Apull", token)
    target = RegistrySettings(
        name=registry.host, url=registry.url, username="me", password=REGISTRY_PASSWORD
    )
    async with running(settings_for(target, cache_dir=tmp_path), timing=QUICK) as proxy:
        got = await proxy.client.ask("GET", TAG_PATH)
    assert got.status == 200 if is_good else got.status >= 500, got
    assert any(seen.authorization == f"Bearer {UPSTREAM_TOKEN}" for seen in registry.seen)
    assert walked("replies")


async def test_a_certificate_upstream_that_nobody_vouches_for(
    tmp_path: Path, walked: Callable[[str], int]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = TestServer(web.Application())
    await server.start_server(ssl=context)
    url = f"https://127.0.0.1:{server.port}"
    target = RegistrySettings(
        name=f"127.0.0.1:{server.port}", url=url, username="me", password=REGISTRY_PASSWORD
    )
    # The server's side of it is told to asyncio by whoever hangs up on its certificate.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        async with running(settings_for(target, cache_dir=tmp_path), timing=QUICK) as proxy:
            statuses = await all_ways(proxy)
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
        await server.close()
    assert walked("replies 5xx") >= sum(statuses[code] for code in (502, 503)) > 0


# The proxy itself fails


async def test_a_cache_that_is_taken_away_and_a_handler_that_fails(
    standin: StandIn,
    proxy: RunningProxy,
    walked: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.to_thread(shutil.rmtree, proxy.settings.cache_dir)
    await all_ways(proxy)
    assert walked("replies")

    # What no path in the code is known to do: the error has all in it that the request had.
    async def fail(self: object, request: web.Request, *others: object) -> web.StreamResponse:
        raise RuntimeError(f"cannot go on with {request.rel_url} of {request.remote}")

    from proxy.handlers.listings import ListingHandlers

    monkeypatch.setattr(ListingHandlers, "repositories", fail)
    got = await proxy.client.ask("GET", "/v2/_catalog")
    assert got.status == 500
    assert walked("tracebacks")
    assert walked("replies 5xx")


# Clients that are refused


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(CLIENT_HEADERS["Authorization"], id="wrong password"),
        pytest.param(BEARER_HEADERS["Authorization"], id="wrong token"),
        pytest.param(f"Basic {HTPASSWD_PASSWORD}", id="no base64"),
        pytest.param(f"Bearer {PROXY_TOKEN}x", id="almost the token"),
        pytest.param(f"Digest {HTPASSWD_PASSWORD}", id="another scheme"),
        pytest.param(PROXY_TOKEN, id="no scheme"),
        pytest.param(None, id="none"),
    ],
)
async def test_clients_that_are_not_let_in(
    authorization: str | None, standin: StandIn, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    async with authenticating(standin, tmp_path) as proxy:
        client = Client(f"http://{proxy.address}")
        headers = {} if authorization is None else {"Authorization": authorization}
        for path in (BLOB_PATH, TAG_PATH, "/v2/", "/metrics"):
            assert (await client.ask("GET", path, headers=headers)).status == 401
        await client.close()
    assert walked("replies 401") == 4


async def test_clients_that_are_let_in_and_meet_errors(
    standin: StandIn, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    async with authenticating(standin, tmp_path) as proxy:
        standin.faults.add(Fault(server="registry", status=500, times=None))
        for headers in (
            {"Authorization": aiohttp.encode_basic_auth("alice", HTPASSWD_PASSWORD)},
            {"Authorization": aiohttp.encode_basic_auth("ci", PROXY_TOKEN)},
            {"Authorization": f"Bearer {PROXY_TOKEN}"},
        ):
            client = Client(f"http://{proxy.address}", headers=headers)
            assert (await client.ask("GET", TAG_PATH)).status >= 500
            await client.close()
    assert walked("replies 5xx") >= 3


@asynccontextmanager
async def authenticating(standin: StandIn, folder: Path) -> AsyncIterator[RunningProxy]:
    """A proxy that lets in alice, by a password, and ci, by a token."""
    htpasswd = Htpasswd(folder / "htpasswd", {"alice": HTPASSWD_PASSWORD})
    access = AccessSettings(
        htpasswd_file=htpasswd.path, tokens=(token_line("ci", PROXY_TOKEN).strip(),)
    )
    settings = settings_for(registry_of(standin), cache_dir=folder / "cache")
    async with running(replace(settings, access=access), timing=QUICK) as proxy:
        yield proxy


# A process of its own, which says all that it has to say


async def test_a_process_that_logs_everything(
    standin: StandIn, tmp_path: Path, walked: Callable[[str], int]
) -> None:
    CACHE.seed(standin, "app", "latest")
    config = tmp_path / "proxy.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\ncache-dir = "cache"\n[[registry]]\nhost = "{standin.host}"\n'
        f'endpoint = "{standin.url}"\napi-endpoint = "{standin.url}"\n'
    )
    variables = {
        "AWS_ACCESS_KEY_ID": standin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": standin.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONASYNCIODEBUG": "1",
    }
    arguments = ["serve", "--config", str(config), "--log-level", "debug"]
    with started(arguments, **variables) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        url = line.partition(" on ")[2].partition(",")[0]
        client = Client(url, headers=CLIENT_HEADERS, watched=True)
        assert (await client.ask("GET", BLOB_PATH)).body == BLOB
        await client.push_blob("app", b"pushed")
        assert (await push(client)).status >= 400
        standin.state.expire_tokens()
        standin.faults.add(Fault(server="s3", status=403, times=3))
        standin.faults.add(Fault(server="registry", status=500, times=3))
        other = Cache.of(b"another")
        other.seed(standin, "app", "other")
        await client.ask("GET", f"/v2/app/blobs/{Digest.of(b'another')}")
        await client.ask("GET", TAG_PATH)
        await client.close()
    assert walked("processes' stderr") > 5
    assert walked("replies of processes") > 5
