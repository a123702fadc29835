"""Who gets in: ECR.md §2, the stand-in's lines 1 to 6."""

from __future__ import annotations

import base64

import aiohttp
import pytest

from proxy.standin import Denial, StandIn
from tests.standin.client import REPOSITORY, Client
from tests.standin.conftest import Running

BLOB = "sha256:" + "0" * 64


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


def unknown_password() -> str:
    return base64.b64encode(b'{"payload":"x","signature":"y"}').decode()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(basic("AWS", unknown_password()), id="unknown"),
        pytest.param(basic("root", "secret"), id="not the user AWS"),
        pytest.param({"Authorization": "Bearer abc"}, id="bearer"),
        pytest.param({"Authorization": "Negotiate abc"}, id="another scheme"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("GET", f"/v2/{REPOSITORY}/manifests/latest"),
        ("POST", f"/v2/{REPOSITORY}/blobs/uploads/"),
        ("GET", "/v2/UPPER/CASE/manifests/latest"),
        ("GET", "/v2/no/such/route"),
    ],
)
async def test_without_known_credentials_everything_is_ecrs_exact_401(
    client: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = await client.ask(method, path, headers=headers, anonymous=True)
    assert (answer.status, answer.body) == (401, b"Not Authorized\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.headers["Www-Authenticate"] == (
        'Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",'
        'service="ecr.amazonaws.com"'
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic ***"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        basic("AWS", "wrong"),
        basic("AWS", base64.b64encode(b"no json").decode()),
    ],
)
async def test_an_undecodable_password_is_400(client: Client, headers: dict[str, str]) -> None:
    answer = await client.ask("GET", "/v2/", headers=headers, anonymous=True)
    assert answer.status == 400
    assert "Www-Authenticate" not in answer.headers


async def test_a_good_password_gets_in(client: Client) -> None:
    answer = await client.ask("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_an_expired_token_is_403_without_a_challenge(
    client: Client, standin: StandIn
) -> None:
    standin.state.clock.advance(12 * 3600 + 1)
    answer = await client.ask("GET", f"/v2/{REPOSITORY}/manifests/latest")
    assert answer.error == (
        403,
        "DENIED",
        "Your authorization token has expired. Reauthenticate and try again.",
    )
    assert "Www-Authenticate" not in answer.headers


async def test_tokens_can_be_expired_while_new_ones_work(client: Client, standin: StandIn) -> None:
    standin.state.expire_tokens()
    assert (await client.ask("GET", "/v2/")).status == 403
    fresh = standin.state.tokens.issue("arn:aws:iam::123456789012:user/x")
    answer = await client.ask("GET", "/v2/", headers=basic("AWS", fresh.password))
    assert answer.status == 200


async def test_the_own_password_is_one_that_is_good_now(client: Client, standin: StandIn) -> None:
    old = standin.password
    assert standin.password == old
    standin.state.expire_tokens()
    assert standin.password != old
    answer = await client.ask("GET", "/v2/", headers=basic("AWS", standin.password))
    assert answer.status == 200


async def test_an_expired_token_can_be_400_as_seen_behind_proxies(running: Running) -> None:
    async with running(expired_token_status=400) as client:
        client.standin.state.expire_tokens()
        assert (await client.ask("GET", "/v2/")).error[:2] == (400, "DENIED")


async def test_the_raw_api_token_is_taken_as_basic_credentials(
    client: Client, standin: StandIn
) -> None:
    token = standin.state.tokens.issue("arn:aws:iam::123456789012:user/x")
    headers = {"Authorization": f"Basic {token.authorization}"}
    assert (await client.ask("GET", "/v2/", headers=headers)).status == 200
    bearer = {"Authorization": f"Bearer {token.authorization}"}
    assert (await client.ask("GET", "/v2/", headers=bearer)).status == 401


async def test_a_token_is_longer_than_4096_characters(standin: StandIn) -> None:
    token = standin.state.tokens.issue("arn:aws:iam::123456789012:user/x")
    assert 4096 < len(token.authorization) < 5000


async def test_one_token_serves_several_account_hosts(running: Running) -> None:
    async with running(further_accounts=("210987654321",)) as client:
        standin = client.standin
        standin.state.create_repository("other/app", "210987654321")
        by_host = {"Host": "210987654321.dkr.ecr.eu-west-1.amazonaws.com"}
        listed = await client.ask("GET", "/v2/other/app/tags/list", headers=by_host)
        assert listed.status == 200
        by_port = standin.url_of("210987654321")
        assert (await client.ask("GET", f"{by_port}/v2/other/app/tags/list")).status == 200
        unknown = await client.ask("GET", f"{by_port}/v2/{REPOSITORY}/tags/list")
        assert "in the registry with id '210987654321'" in unknown.error[2]
        assert (await client.ask("GET", "/v2/other/app/tags/list")).status == 404
        challenge = await client.ask("GET", "/v2/", headers=by_host, anonymous=True)
        assert 'realm="https://210987654321.dkr.' in challenge.headers["Www-Authenticate"]


DENIED = (
    "User: arn:aws:iam::123456789012:user/stand-in is not authorized to perform: ecr:{0} on "
    "resource: arn:aws:ecr:eu-west-1:123456789012:repository/team/app because no identity-based "
    "policy allows the ecr:{0} action"
)


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "manifests/latest", "BatchGetImage"),
        ("PUT", "manifests/latest", "PutImage"),
        ("DELETE", "manifests/latest", "BatchDeleteImage"),
        ("GET", f"blobs/{BLOB}", "GetDownloadUrlForLayer"),
        ("POST", "blobs/uploads/", "InitiateLayerUpload"),
        ("PATCH", "blobs/uploads/some-id", "UploadLayerPart"),
        ("PUT", "blobs/uploads/some-id", "CompleteLayerUpload"),
        ("GET", "tags/list", "ListImages"),
    ],
)
async def test_a_policy_denial_is_403_in_iams_words(
    running: Running, method: str, path: str, action: str
) -> None:
    async with running(denials=(Denial(f"ecr:{action}"),)) as client:
        answer = await client.ask(method, f"/v2/{REPOSITORY}/{path}")
        assert answer.error == (403, "DENIED", DENIED.format(action))
        client.standin.state.policy.denials.clear()
        assert (await client.ask(method, f"/v2/{REPOSITORY}/{path}")).status != 403


async def test_a_denied_head_has_no_body(running: Running) -> None:
    async with running(denials=(Denial("ecr:*", "team/*"),)) as client:
        answer = await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{BLOB}")
        assert (answer.status, answer.body) == (403, b"")


async def test_a_denial_of_one_repository_leaves_the_others(running: Running) -> None:
    async with running(denials=(Denial("ecr:*", "secret/*"),)) as client:
        assert (await client.ask("GET", f"/v2/{REPOSITORY}/tags/list")).status == 200
        # Denied before anyone looks whether it is there.
        assert (await client.ask("GET", "/v2/secret/app/tags/list")).status == 403
