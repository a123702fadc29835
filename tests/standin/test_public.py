"""ECR Public's ways: ECR.md §1."""

from __future__ import annotations

import base64

from proxy.oci import Digest
from tests.standin.client import REPOSITORY, Client
from tests.standin.conftest import Running
from tests.standin.test_json_api import call


async def bearer(client: Client, basic: str | None = None) -> dict[str, str]:
    headers = {"Authorization": f"Basic {basic}"} if basic else {}
    answer = await client.ask("GET", "/token/", headers=headers, anonymous=True)
    assert answer.status == 200
    return {"Authorization": f"Bearer {answer.json['token']}"}


async def test_public_asks_for_a_bearer_from_its_token_endpoint(running: Running) -> None:
    async with running(public=True) as client:
        answer = await client.ask("GET", "/v2/", anonymous=True)
        assert answer.status == 401
        assert answer.headers["Www-Authenticate"] == (
            f'Bearer realm="{client.standin.url}/token/",service="public.ecr.aws",scope="aws"'
        )
        assert (await client.ask("GET", "/v2/")).status == 401  # Basic is not taken
        assert (await client.ask("GET", "/v2/", headers=await bearer(client))).status == 200


async def test_a_token_of_the_public_api_is_exchanged_or_used_as_it_is(running: Running) -> None:
    async with running(public=True) as client:
        reply = await call(
            client.standin,
            lambda ecr: ecr.get_authorization_token(),
            service="ecr-public",
            region_name="us-east-1",
        )
        token = reply["authorizationData"]["authorizationToken"]
        assert base64.b64decode(token).startswith(b"AWS:")
        for headers in (await bearer(client, token), {"Authorization": f"Bearer {token}"}):
            answer = await client.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/", headers=headers)
            assert answer.status == 202


async def test_the_anonymous_may_pull_and_no_more(running: Running) -> None:
    async with running(public=True) as client:
        headers = await bearer(client)
        path = f"/v2/{REPOSITORY}/"
        assert (await client.ask("GET", path + "manifests/none", headers=headers)).status == 404
        denied = await client.ask("POST", path + "blobs/uploads/", headers=headers)
        assert denied.error[:2] == (403, "DENIED")


async def test_public_head_blob_is_401_while_get_redirects(running: Running) -> None:
    async with running(public=True, unreferenced_blob_status=200) as client:
        digest = client.standin.state.put_blob(REPOSITORY, b"layer")
        headers = await bearer(client)
        path = f"/v2/{REPOSITORY}/blobs/{digest}"
        assert digest == Digest.of(b"layer")
        assert (await client.ask("HEAD", path, headers=headers)).status == 401
        assert (await client.ask("GET", path, headers=headers)).status == 307


async def test_an_expired_public_token_is_400(running: Running) -> None:
    async with running(public=True) as client:
        headers = await bearer(client)
        client.standin.state.expire_tokens()
        answer = await client.ask("GET", "/v2/", headers=headers)
        assert answer.status == 400
        assert "expired" in answer.error[2]
