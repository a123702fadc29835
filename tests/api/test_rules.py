"""What rules let a client do, and what one that is refused can learn: nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import AccessSettings, RegistrySettings, RuleSettings, Settings
from proxy.config.values import Action
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.services import catalog
from proxy.standin import StandIn, StandInSettings
from tests.access.files import Htpasswd
from tests.api.clients import connection, logged_in
from tests.caches import Cache
from tests.running import Answer, Client, RunningProxy, running, settings_for

IMAGE = Cache.of(b"layer of the image")
BLOB, MANIFEST = Digest.of(IMAGE.layers[0]), Digest.of(IMAGE.image_manifest)
ABSENT = Digest.of(b"absent")
OTHER = "210987654321"
UNKNOWN = "999999999999.dkr.ecr.eu-west-1.amazonaws.com"
USERS = ("admin", "ci", "fork", "nothing")
PASSWORDS = {user: f"password of {user}" for user in USERS}


def rule(users: str, repositories: str, *allow: Action, registries: str = "*") -> RuleSettings:
    return RuleSettings(
        users=tuple(users.split()),
        repositories=tuple(repositories.split()),
        registries=tuple(registries.split()),
        allow=frozenset(allow),
    )


RULES = (
    # Pull requests from forks read the cache, and never write it.
    rule("fork", "app", "pull", registries="123456789012.*"),
    rule("fork", "*"),
    rule("ci", "app team/*", "pull", "push"),
    rule("ci", "drop", "push"),
    rule("admin", "*", "pull", "push", "delete"),
)


@pytest.fixture
async def second() -> AsyncIterator[StandIn]:
    """Another account's registry."""
    settings = StandInSettings(account=OTHER, repositories=("app", "mine"), rate_limits=False)
    async with StandIn(settings) as standin:
        yield standin


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    repositories = ("app", "other", "team/app", "drop")
    async with StandIn(StandInSettings(repositories=repositories, rate_limits=False)) as standin:
        for name in ("app", "other"):
            for blob in IMAGE.blobs:
                standin.state.put_blob(name, blob)
            standin.state.put_manifest(name, IMAGE.image_manifest, OCI_MANIFEST, "1")
        yield standin


@pytest.fixture
def settings(standin: StandIn, second: StandIn, tmp_path: Path) -> Settings:
    htpasswd = Htpasswd(tmp_path / "htpasswd", PASSWORDS)
    base = settings_for(registry_of(standin), registry_of(second), cache_dir=tmp_path / "cache")
    return replace(base, access=AccessSettings(htpasswd_file=htpasswd.path, rules=RULES))


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[RunningProxy]:
    async with running(settings) as proxy:
        await proxy.until(Kind.TOKEN, 2)
        yield proxy


@pytest.fixture
async def clients(proxy: RunningProxy) -> AsyncIterator[Mapping[str, Client]]:
    async with (
        logged_in(proxy, "admin", PASSWORDS["admin"]) as admin,
        logged_in(proxy, "ci", PASSWORDS["ci"]) as ci,
        logged_in(proxy, "fork", PASSWORDS["fork"]) as fork,
        logged_in(proxy, "nothing", PASSWORDS["nothing"]) as nothing,
    ):
        yield {"admin": admin, "ci": ci, "fork": fork, "nothing": nothing}


def requests_for(name: str, *, digest: str = BLOB, tag: str = "1") -> list[tuple[str, str]]:
    """Every route and method below a repository."""
    return [
        *((method, f"/v2/{name}/manifests/{tag}") for method in ("GET", "HEAD", "PUT", "DELETE")),
        *((m, f"/v2/{name}/manifests/{digest}") for m in ("GET", "HEAD", "PUT", "DELETE")),
        *((method, f"/v2/{name}/blobs/{digest}") for method in ("GET", "HEAD", "DELETE")),
        *((m, f"/v2/{name}/blobs/uploads/token") for m in ("GET", "PATCH", "PUT", "DELETE")),
        ("POST", f"/v2/{name}/blobs/uploads/"),
        ("POST", f"/v2/{name}/blobs/uploads/?digest={digest}"),
        ("POST", f"/v2/{name}/blobs/uploads/?mount={digest}&from=app"),
        ("GET", f"/v2/{name}/tags/list"),
        ("GET", f"/v2/{name}/tags/list?n=nonsense"),
        ("GET", f"/v2/{name}/referrers/{digest}"),
    ]


def seen(answer: Answer, name: str) -> tuple[int, dict[str, str], bytes]:
    """What a client sees, but for the time and the name that it has written itself."""
    headers = {key: value.replace(name, "NAME") for key, value in answer.headers.items()}
    for varying in ("Date", "Content-Length"):
        headers.pop(varying, None)
    return answer.status, headers, answer.body.replace(name.encode(), b"NAME")


@pytest.mark.parametrize("user", ["nothing", "fork", "ci"])
async def test_a_refused_client_cannot_tell_what_exists(
    clients: Mapping[str, Client], proxy: RunningProxy, standin: StandIn, second: StandIn, user: str
) -> None:
    admin, client = clients["admin"], clients[user]
    # In the cache, too: what is on disk shows no more than what is not.
    assert (await admin.ask("GET", f"/v2/other/blobs/{BLOB}")).status == 200
    assert (await admin.ask("GET", "/v2/other/manifests/1")).status == 200
    asked = len(standin.requests), len(second.requests)
    names = [
        *("other", "missing", "mine", "UPPER", "a//b"),
        *(f"{host}/other" for host in (standin.host, second.host, UNKNOWN)),
        *(f"{host}/mine" for host in (second.host, UNKNOWN)),
    ]
    expected = [seen(await client.ask(*r), "missing") for r in requests_for("missing")]
    assert {status for status, _, _ in expected} == {403}
    for name in names:
        for digest, tag in ((BLOB, "1"), (MANIFEST, "1"), (ABSENT, "none")):
            got = [await client.ask(*r) for r in requests_for(name, digest=digest, tag=tag)]
            assert [seen(answer, name) for answer in got] == expected, name
    for ns in (second.host, UNKNOWN, "docker.io", ""):
        got = [
            await client.ask(method, f"{path}{'&' if '?' in path else '?'}ns={ns}")
            for method, path in requests_for("mine")
        ]
        assert [seen(answer, "mine") for answer in got] == expected, ns
    assert (len(standin.requests), len(second.requests)) == asked, "nobody was asked"


async def test_a_refusal_names_the_user_the_action_and_what_the_client_wrote_alone(
    clients: Mapping[str, Client], standin: StandIn, second: StandIn
) -> None:
    got = await clients["fork"].ask("GET", f"/v2/{UNKNOWN}/x/tags/list")
    error = json.loads(got.body)["errors"][0]
    assert error == {
        "code": "DENIED",
        "message": f"the user fork may not pull '{UNKNOWN}/x': "
        "no rule of this proxy's configuration allows it",
    }
    for name in (standin.host, second.host):
        assert name.encode() not in got.body
    written = await clients["fork"].ask("PUT", "/v2/app/manifests/1", body=b"{}")
    assert "the user fork may not push 'app'" in written.body.decode()


async def test_which_registries_are_configured_is_for_those_who_may_use_them(
    clients: Mapping[str, Client], standin: StandIn, second: StandIn
) -> None:
    told = await clients["admin"].ask("GET", f"/v2/{UNKNOWN}/app/tags/list")
    assert told.status == 404
    assert standin.host.encode() in told.body
    assert second.host.encode() in told.body
    assert (await clients["admin"].ask("GET", f"/v2/_catalog?ns={UNKNOWN}")).status == 404
    for user in ("fork", "nothing"):
        for path in (f"/v2/{UNKNOWN}/app/tags/list", f"/v2/app/tags/list?ns={UNKNOWN}"):
            got = await clients[user].ask("GET", path)
            assert got.status == 403
            assert standin.host.encode() not in got.body
        catalogs = [
            seen(await clients[user].ask("GET", f"/v2/_catalog?ns={ns}"), ns)
            for ns in (second.host, UNKNOWN)
        ]
        assert catalogs[0] == catalogs[1]
        assert catalogs[0][0] == 403


async def test_the_list_of_registries_has_only_those_of_the_user(
    settings: Settings, standin: StandIn, second: StandIn
) -> None:
    rules = (rule("ci", "*", "pull", registries=f"{second.host} {UNKNOWN}"),)
    access = replace(settings.access, rules=rules)
    async with (
        running(replace(settings, access=access)) as proxy,
        logged_in(proxy, "ci", PASSWORDS["ci"]) as ci,
    ):
        for path in (f"/v2/{UNKNOWN}/app/tags/list", f"/v2/_catalog?ns={UNKNOWN}"):
            got = await ci.ask("GET", path)
            # Judged as the default registry's, which this user may not use.
            assert got.status == (404 if "catalog" in path else 403)
            assert standin.host.encode() not in got.body


async def test_a_registry_that_could_be_behind_the_default_one_is_no_exception(
    settings: Settings, standin: StandIn, second: StandIn
) -> None:
    """Another proxy as the default registry might know it, which has to be asked first."""
    name = standin.url.removeprefix("http://")
    plain = RegistrySettings(
        name=name, url=standin.url, username=standin.username, password=standin.password
    )
    rules = (rule("ci", "*", "pull", registries=name), rule("admin", "*", "pull"))
    access = replace(settings.access, rules=rules)
    registries = (plain, settings.registries[1])
    async with (
        running(replace(settings, access=access, registries=registries)) as proxy,
        logged_in(proxy, "ci", PASSWORDS["ci"]) as ci,
        logged_in(proxy, "admin", PASSWORDS["admin"]) as admin,
    ):
        assert (await ci.ask("GET", "/v2/app/manifests/1")).status == 200
        path = "/v2/{}/app/manifests/1"
        refused = [
            seen(await ci.ask("GET", path.format(host)), host) for host in (second.host, UNKNOWN)
        ]
        assert refused[0] == refused[1]
        assert refused[0][0] == 403
        told = await admin.ask("GET", path.format(UNKNOWN))
        assert (told.status, second.host.encode() in told.body) == (404, True)


@pytest.fixture
async def sidecar(
    settings: Settings, second: StandIn, tmp_path: Path
) -> AsyncIterator[RunningProxy]:
    """Behind a proxy that lets everybody do everything. Its rules deny, and then allow the rest."""
    rules = (rule("*", "drop mine"), rule("*", f"{second.host}/*"), rule("*", "*", "pull", "push"))
    async with running(replace(settings, access=AccessSettings())) as parent:
        await parent.until(Kind.TOKEN, 2)
        registry = RegistrySettings(name=parent.address, url=f"http://{parent.address}")
        own = settings_for(registry, cache_dir=tmp_path / "sidecar")
        async with running(replace(own, access=AccessSettings(rules=rules))) as sidecar:
            yield sidecar


async def test_no_other_name_of_a_repository_leads_past_a_rule_of_a_chain(
    sidecar: RunningProxy, standin: StandIn
) -> None:
    """The parent has its default registry's repositories under two names."""
    ask = sidecar.client.ask
    assert (await ask("GET", f"/v2/{standin.host}/app/manifests/1")).status == 200
    for path in (
        "/v2/drop/tags/list",
        f"/v2/{standin.host}/drop/tags/list",
        f"/v2/drop/tags/list?ns={standin.host}",
        f"/v2/{sidecar.settings.registries[0].name}/{standin.host}/drop/tags/list",
    ):
        assert (await ask("GET", path)).status == 403, path
    digest = await sidecar.client.push_blob("app", b"content")
    await sidecar.until_upstream(digest)
    mount = f"/v2/app/blobs/uploads/?mount={digest}&from={standin.host}"
    assert (await ask("POST", f"{mount}/app")).status == 201
    assert (await ask("POST", f"{mount}/drop")).status == 202


async def test_no_spelling_of_ns_reaches_a_registry_that_was_not_judged(
    sidecar: RunningProxy, second: StandIn
) -> None:
    """The parent would go by it, and the query of a further page is handed on as it is."""
    parent = sidecar.settings.registries[0].name
    path = f"/v2/app/referrers/{MANIFEST}?page=2&ns={parent}"
    assert (await sidecar.client.ask("GET", path)).status == 200
    asked = len(second.requests)
    for key in ("ns", "%6Es", "n%73", "%6e%73"):
        await sidecar.client.ask("GET", f"{path}&{key}={second.host}")
    assert len(second.requests) == asked


@pytest.mark.parametrize(
    ("user", "name", "allowed"),
    [
        ("fork", "app", "pull"),
        ("fork", "other", ""),
        ("ci", "app", "pull push"),
        ("ci", "team/app", "pull push"),
        ("ci", "drop", "push"),
        ("admin", "app", "pull push delete"),
        ("admin", "other", "pull push delete"),
        ("nothing", "app", ""),
    ],
)
async def test_each_route_asks_for_its_action(
    clients: Mapping[str, Client], user: str, name: str, allowed: str
) -> None:
    client = clients[user]
    pulls = [("GET", f"/v2/{name}/manifests/none"), ("GET", f"/v2/{name}/blobs/{ABSENT}")]
    pulls += [("GET", f"/v2/{name}/tags/list"), ("GET", f"/v2/{name}/referrers/{ABSENT}")]
    # Pushers ask before they push.
    asks = [("HEAD", f"/v2/{name}/manifests/none"), ("HEAD", f"/v2/{name}/blobs/{ABSENT}")]
    pushes = [("PUT", f"/v2/{name}/manifests/none"), ("POST", f"/v2/{name}/blobs/uploads/")]
    pushes += [(m, f"/v2/{name}/blobs/uploads/x") for m in ("GET", "PATCH", "PUT", "DELETE")]
    deletes = [(("DELETE"), f"/v2/{name}/{what}/{ABSENT}") for what in ("manifests", "blobs")]
    for requests, actions in (
        (pulls, {"pull"}),
        (asks, {"pull", "push"}),
        (pushes, {"push"}),
        (deletes, {"delete"}),
    ):
        for method, path in requests:
            refused = (await client.ask(method, path)).status == 403
            assert refused is not bool(actions & set(allowed.split())), (method, path)


async def test_pull_requests_of_forks_read_the_cache_and_never_write_it(
    clients: Mapping[str, Client], standin: StandIn
) -> None:
    ci, fork = clients["ci"], clients["fork"]
    cache = Cache.of(b"layer of a cache")
    await cache.push_blobs(ci, "app")
    assert (
        await ci.push_manifest("app", "cache", cache.image_manifest, OCI_MANIFEST)
    ).status == 201
    assert (await fork.ask("GET", "/v2/app/manifests/cache")).body == cache.image_manifest
    for blob in cache.blobs:
        assert (await fork.ask("GET", f"/v2/app/blobs/{Digest.of(blob)}")).body == blob
    poison = Cache.of(b"poison").image_manifest
    assert (await fork.push_manifest("app", "cache", poison, OCI_MANIFEST)).status == 403
    started = await ci.ask("POST", "/v2/app/blobs/uploads/")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        # Nor with the location of somebody else's upload.
        location = f"{started.headers['Location']}?digest={ABSENT}"
        assert (await fork.ask(method, location)).status == 403
    assert (await fork.ask("GET", "/v2/app/manifests/cache")).body == cache.image_manifest


async def test_a_blob_in_the_cache_is_for_those_who_may_read_its_repository(
    clients: Mapping[str, Client],
) -> None:
    secret = b"secret layer"
    digest = await clients["admin"].push_blob("other", secret)
    assert (await clients["admin"].ask("GET", f"/v2/other/blobs/{digest}")).status == 200
    for name in ("app", "team/app"):
        assert (await clients["ci"].ask("GET", f"/v2/{name}/blobs/{digest}")).status == 404
    assert (await clients["ci"].ask("GET", f"/v2/other/blobs/{digest}")).status == 403


async def test_nothing_is_mounted_from_where_the_user_may_not_pull(
    clients: Mapping[str, Client], proxy: RunningProxy, standin: StandIn
) -> None:
    digest = await clients["admin"].push_blob("other", b"private")
    await proxy.until_upstream(digest)
    ci = clients["ci"]

    async def mount(query: str) -> tuple[int, dict[str, str], bytes]:
        answer = await ci.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}{query}")
        status, headers, body = seen(answer, "app")
        for own in ("Location", "Docker-Upload-UUID"):
            assert headers.pop(own)
        return status, headers, body

    missing = await mount("&from=missing")
    assert missing[0] == 202
    for query in ("&from=other", "&from=drop", f"&from={UNKNOWN}/other", "&from=UPPER", ""):
        assert await mount(query) == missing, query
    # Nor does ECR get the chance, which knows the proxy's rights and not the user's.
    asked = [request.path for request in standin.requests if "mount=" in request.path]
    assert [path for path in asked if "from=missing" not in path] == []
    # From where the user may read it is.
    allowed = await ci.push_blob("team/app", b"shared")
    await proxy.until_upstream(allowed)
    got = await ci.ask("POST", f"/v2/app/blobs/uploads/?mount={allowed}&from=team/app")
    assert got.status == 201


async def names(client: Client, path: str) -> list[list[str]]:
    """The pages of a catalogue."""
    pages = []
    while path:
        got = await client.ask("GET", path)
        assert got.status == 200, got
        pages.append(json.loads(got.body)["repositories"])
        path = got.headers.get("Link", "").partition("<")[2].partition(">")[0]
    return pages


async def test_the_catalogue_has_what_the_user_may_pull(
    clients: Mapping[str, Client], second: StandIn
) -> None:
    assert await names(clients["admin"], "/v2/_catalog") == [["app", "drop", "other", "team/app"]]
    assert await names(clients["ci"], "/v2/_catalog") == [["app", "team/app"]]
    assert await names(clients["fork"], "/v2/_catalog") == [["app"]]
    assert (await clients["nothing"].ask("GET", "/v2/_catalog")).status == 403
    assert await names(clients["ci"], f"/v2/_catalog?ns={second.host}") == [["app"]]


@pytest.mark.parametrize("upstream", [1, 2, 3, 1000])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
async def test_pages_of_the_catalogue_are_full_and_show_no_other_name(
    clients: Mapping[str, Client], monkeypatch: pytest.MonkeyPatch, upstream: int, n: int
) -> None:
    monkeypatch.setattr(catalog, "_PAGE", upstream)
    mine = ["app", "team/app"]
    pages = await names(clients["ci"], f"/v2/_catalog?n={n}")
    assert [name for page in pages for name in page] == mine
    assert len(pages[0]) == min(n, 2)
    first = await clients["ci"].ask("GET", "/v2/_catalog?n=1")
    assert "other" not in first.headers["Link"]
    assert "drop" not in first.headers["Link"]
    assert await names(clients["ci"], "/v2/_catalog?n=0") == [[]]


async def test_a_place_in_the_catalogue_is_taken_from_its_link_alone(
    clients: Mapping[str, Client], second: StandIn
) -> None:
    ci = clients["ci"]
    link = (await ci.ask("GET", "/v2/_catalog?n=1")).headers["Link"]
    token = link.partition("last=")[2].partition("&")[0].partition(">")[0]
    for path in ("?last=other", "?last=", f"?last={token}x", f"?ns={second.host}&last={token}"):
        assert (await ci.ask("GET", f"/v2/_catalog{path}")).status == 400, path
    location = f"/v2/app/blobs/uploads/{token}"
    assert (await ci.ask("GET", location)).status == 404


@pytest.mark.parametrize("rules", [(), RULES])
async def test_read_only_refuses_everybody_who_would_write(
    settings: Settings, rules: tuple[RuleSettings, ...]
) -> None:
    access = replace(settings.access, rules=rules, read_only=True)
    async with (
        running(replace(settings, access=access)) as proxy,
        logged_in(proxy, "admin", PASSWORDS["admin"]) as admin,
    ):
        for method, path in requests_for("app"):
            got = await admin.ask(method, path)
            writes = method in ("PUT", "POST", "PATCH", "DELETE") or "uploads" in path
            assert (got.status == 403) is writes, (method, path)
            if writes:
                assert "--read-only" in got.headers["Ecr-Cache-Proxy-Error"]
                assert json.loads(got.body)["errors"][0]["code"] == "DENIED"


async def test_rules_without_authentication_are_for_the_user_without_a_name(
    settings: Settings,
) -> None:
    rules = (rule("?*", "*", "pull", "push", "delete"), rule("*", "app", "pull"))
    access = AccessSettings(rules=rules)
    async with running(replace(settings, access=access)) as proxy:
        assert (await proxy.client.ask("GET", "/v2/app/manifests/1")).status == 200
        got = await proxy.client.ask("GET", "/v2/other/manifests/1")
        assert got.status == 403
        assert "a client without a user may not pull 'other'" in got.body.decode()
        assert (await proxy.client.ask("PUT", "/v2/app/manifests/1", body=b"{}")).status == 403


async def test_refusals_by_rules_are_counted(clients: Mapping[str, Client]) -> None:
    assert (await clients["nothing"].ask("GET", "/v2/app/tags/list")).status == 403
    metrics = await clients["nothing"].ask("GET", "/metrics")
    assert b'ecr_cache_proxy_refusals_total{reason="denied"} 1.0' in metrics.body


async def test_the_body_of_a_denied_push_is_not_asked_for(proxy: RunningProxy) -> None:
    async with logged_in(proxy, "fork", PASSWORDS["fork"]) as fork:
        login = fork.session.headers["Authorization"]
    async with connection(proxy) as (reader, writer):
        head = "PUT /v2/app/manifests/t HTTP/1.1\r\nHost: proxy\r\nContent-Length: 10000000\r\n"
        writer.write(f"{head}Authorization: {login}\r\nExpect: 100-continue\r\n\r\n".encode())
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 403 ")
        assert b"connection: close" in reply.lower(), "what it sends all the same is not read"
        assert b"100 Continue" not in reply
