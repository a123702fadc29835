"""Bearer tokens: of ECR Public, and of any registry that challenges for them."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from proxy.errors import BadGateway, RegistryError, Unavailable
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest, RepositoryName, Tag
from proxy.upstream import Registry, RegistryConfig
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import Answer, FakeAws, FakeServer, Told

REPO = RepositoryName("team/app")
LATEST = Tag("latest")
PATH = f"/v2/{REPO}/manifests/{LATEST}"
FOUND = Answer(200, b"{}", {"Content-Type": OCI_MANIFEST})
SCOPE = f"repository:{REPO}:pull"
TOKEN = "/token?service=reg.example&scope=repository%3Ateam%2Fapp%3Apull"


def challenge(server: FakeServer, realm: str | None = None, scope: str = SCOPE) -> Answer:
    value = f'Bearer realm="{realm or server.url + "/token"}",service="reg.example",scope="{scope}"'
    return Answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": value})


def token(value: str, **more: object) -> Answer:
    return Answer(200, json.dumps({"token": value, **more}).encode())


def demanding(server: FakeServer, accepted: str) -> object:
    """Answers only those with the token."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == f"Bearer {accepted}":
            return web.Response(body=b"{}", content_type=OCI_MANIFEST)
        refusal = challenge(server)
        return web.Response(status=401, headers=refusal.headers)

    return answer


async def test_challenge_is_met_with_a_token_and_that_is_kept(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("GET", PATH, challenge(server), FOUND)
    server.tell("GET", TOKEN, token("abc"))
    await plain.get_manifest(REPO, LATEST)
    await plain.get_manifest(REPO, LATEST)
    assert server.targets("GET") == [PATH, TOKEN, PATH, PATH]
    assert [seen.authorization for seen in server.seen] == [
        None,
        None,
        "Bearer abc",
        "Bearer abc",
    ]


async def test_many_challenges_are_one_token(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, demanding(server, "abc"))  # type: ignore[arg-type]
    server.tell("GET", TOKEN, token("abc"))
    await asyncio.gather(*(plain.get_manifest(REPO, LATEST) for _ in range(50)))
    assert server.targets("GET").count(TOKEN) == 1


async def test_credentials_buy_the_token_and_nothing_else_gets_them(
    open_: OpenRegistry, server: FakeServer
) -> None:
    registry = await open_(RegistryConfig(name="lan", url=server.url, username="u", password="p"))
    server.tell("GET", PATH, challenge(server), FOUND)
    server.tell("GET", TOKEN, Answer(200, b'{"access_token":"abc"}'))
    await registry.get_manifest(REPO, LATEST)
    assert [seen.authorization for seen in server.seen] == [
        "Basic dTpw",
        "Basic dTpw",
        "Bearer abc",
    ]


async def test_expired_token_is_replaced_in_time(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", PATH, challenge(server), FOUND)
    server.tell("GET", TOKEN, token("short", expires_in=0), token("long", expires_in=3600))
    await plain.get_manifest(REPO, LATEST)
    await plain.get_manifest(REPO, LATEST)
    used = [seen.authorization for seen in server.seen if seen.target == PATH]
    assert used == [None, "Bearer long", "Bearer long"]


@pytest.mark.parametrize("lifetime", ["1e400", "9" * 400, "NaN", '"soon"', "[]"])
async def test_token_whose_life_is_no_number_is_used_until_it_is_refused(
    plain: Registry, server: FakeServer, lifetime: str
) -> None:
    server.tell("GET", PATH, challenge(server), FOUND)
    server.tell("GET", TOKEN, Answer(200, b'{"token":"abc","expires_in":%b}' % lifetime.encode()))
    await plain.get_manifest(REPO, LATEST)
    await plain.get_manifest(REPO, LATEST)
    assert server.targets("GET").count(TOKEN) == 1


async def test_each_scope_has_a_token_of_its_own(plain: Registry, server: FakeServer) -> None:
    push = f"repository:{REPO}:pull,push"
    asked = TOKEN.replace("pull", "pull%2Cpush")
    server.tell("GET", PATH, challenge(server), FOUND)
    server.tell("PUT", PATH, challenge(server, scope=push), Answer(201))
    server.tell("GET", TOKEN, token("reader"))
    server.tell("GET", asked, token("writer"))
    await plain.get_manifest(REPO, LATEST)
    await plain.put_manifest(REPO, LATEST, b"{}", OCI_MANIFEST)
    await plain.get_manifest(REPO, LATEST)
    assert server.seen[-2].authorization == "Bearer writer"
    assert server.seen[-1].authorization == "Bearer reader"


async def test_realm_on_another_host_gets_nothing(
    open_: OpenRegistry, server: FakeServer, told: Told
) -> None:
    registry = await open_(RegistryConfig(name="lan", url=server.url, username="u", password="p"))
    server.tell("GET", PATH, challenge(server, realm="http://evil.example/token"))
    with pytest.raises(BadGateway, match=r"evil\.example"):
        await registry.get_manifest(REPO, LATEST)
    assert told.of(Kind.TROUBLE)
    assert registry.credentials_problem() is not None


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (Answer(401, b"who?"), Unavailable, "who"),
        (Answer(403), Unavailable, "credentials"),
        (Answer(500), BadGateway, "status 500"),
        (Answer(200, b"<html>"), BadGateway, "no token"),
        (Answer(200, b'{"token":"a\\nX-Injected: 1"}'), BadGateway, "no token"),
        (Answer(200, b"[]"), BadGateway, "no token"),
        (Answer(200, b"[" * 100_000), BadGateway, "no token"),
    ],
)
async def test_no_token_is_told(
    plain: Registry, server: FakeServer, answer: Answer, expected: type[Exception], words: str
) -> None:
    server.tell("GET", PATH, challenge(server))
    server.tell("GET", TOKEN, answer)
    with pytest.raises(expected, match=words):
        await plain.get_manifest(REPO, LATEST)


@pytest.mark.parametrize("status", [401, 500])
async def test_a_password_that_a_token_server_repeats_is_taken_out(
    open_: OpenRegistry, server: FakeServer, status: int
) -> None:
    password = "not a word"
    config = RegistryConfig(name="lan", url=server.url, username="u", password=password)
    registry = await open_(config)
    server.tell("GET", PATH, challenge(server))
    server.tell("GET", TOKEN, Answer(status, f"no u:{password} here".encode()))
    with pytest.raises(RegistryError, match=r"no u:\(credentials\) here") as caught:
        await registry.get_manifest(REPO, LATEST)
    assert password not in caught.value.message


async def test_token_that_is_refused_is_not_asked_for_over_and_over(
    plain: Registry, server: FakeServer
) -> None:
    server.tell("GET", PATH, challenge(server))
    server.tell("GET", TOKEN, token("abc"))
    for _ in range(5):
        with pytest.raises(Unavailable):
            await plain.get_manifest(REPO, LATEST)
    assert server.targets("GET").count(TOKEN) == 1


@pytest.fixture
async def public(open_: OpenRegistry, server: FakeServer, aws: FakeAws) -> Registry:
    return await open_(
        RegistryConfig(name="public.ecr.aws", url=server.url, ecr=True, api_url=aws.url)
    )


PUBLIC_TOKEN = "/token/?service=public.ecr.aws&scope=aws"


def public_challenge(server: FakeServer) -> Answer:
    value = f'Bearer realm="{server.url}/token/",service="public.ecr.aws",scope="aws"'
    return Answer(401, b"", {"WWW-Authenticate": value})


async def test_public_is_read_anonymously_without_credentials(
    public: Registry, server: FakeServer, aws: FakeAws
) -> None:
    server.tell("GET", PATH, public_challenge(server), FOUND)
    server.tell("GET", PUBLIC_TOKEN, token("anonymous"))
    assert public.credentials_problem() is None
    await public.get_manifest(REPO, LATEST)
    assert [seen.authorization for seen in server.seen] == [None, None, "Bearer anonymous"]
    assert aws.public_tokens == 0


async def test_public_token_is_bought_with_that_of_aws(
    keys: None, public: Registry, server: FakeServer, aws: FakeAws
) -> None:
    server.tell("GET", PATH, public_challenge(server), FOUND)
    server.tell("GET", PUBLIC_TOKEN, token("named"))
    await public.get_manifest(REPO, LATEST)
    assert aws.public_tokens == 1
    assert server.seen[1].authorization == FakeAws.header(0)
    assert server.seen[2].authorization == "Bearer named"


async def test_public_goes_on_without_credentials_that_aws_refuses(
    keys: None, public: Registry, server: FakeServer, aws: FakeAws, told: Told
) -> None:
    aws.refusals.extend([(400, "AccessDeniedException", "no")] * 5)
    server.tell("GET", PATH, public_challenge(server), FOUND)
    server.tell("GET", PUBLIC_TOKEN, token("anonymous"))
    await public.get_manifest(REPO, LATEST)
    (trouble,) = told.of(Kind.TROUBLE)
    assert "without credentials" in trouble.detail


async def test_expired_public_token_is_a_400(public: Registry, server: FakeServer) -> None:
    expired = Answer(400, b'{"errors":[{"code":"DENIED","message":"Your token has expired"}]}')
    server.tell("GET", PATH, public_challenge(server), FOUND, expired, FOUND)
    server.tell("GET", PUBLIC_TOKEN, token("first"), token("second"))
    await public.get_manifest(REPO, LATEST)
    await public.get_manifest(REPO, LATEST)
    assert server.seen[-1].authorization == "Bearer second"


async def test_public_blob_is_never_asked_for_by_head(public: Registry, server: FakeServer) -> None:
    """Every HEAD of a blob is answered 401 there (ECR.md §1)."""
    content = b"x" * 1000
    digest = Digest.of(content)
    path = f"/v2/{REPO}/blobs/{digest}"
    moved = Answer(307, b"", {"Location": f"{server.url}/cdn?sig=%2f"})
    server.tell("GET", path, public_challenge(server), moved)
    server.tell("GET", PUBLIC_TOKEN, token("anonymous"))
    server.tell(
        "GET",
        "/cdn?sig=%2f",
        Answer(206, content[:1], {"Content-Range": "bytes 0-0/1000"}),
        Answer(200, content),
        Answer(416),
    )
    assert await public.head_blob(REPO, digest) == 1000
    assert await public.head_blob(REPO, digest) == 1000
    assert await public.head_blob(REPO, digest) == 0
    assert server.targets("HEAD") == []
