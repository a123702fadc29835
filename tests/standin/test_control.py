"""The same controls over HTTP, for tests in another process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.oci import OCI_MANIFEST
from proxy.standin import StandIn
from tests.standin.client import REPOSITORY, Answer, Client

TAGS = f"/v2/{REPOSITORY}/tags/list"


async def control(client: Client, method: str, path: str, value: Any = None) -> Answer:
    body = json.dumps(value).encode() if value is not None else None
    return await client.ask(method, f"/_standin/{path}", body=body, anonymous=True)


async def act(client: Client, action: str, **more: Any) -> None:
    assert (await control(client, "POST", "state", {"action": action, **more})).status == 200


async def test_a_fault_is_added_watched_and_taken_back(client: Client) -> None:
    added = await control(client, "POST", "faults", {"status": 503, "times": None})
    number = added.json["number"]
    assert (await client.ask("GET", TAGS)).status == 503
    listed = (await control(client, "GET", "faults")).json
    assert listed == [{"number": number, "hits": 1, "reached": False}]
    assert (await control(client, "DELETE", f"faults/{number}")).status == 200
    assert (await client.ask("GET", TAGS)).status == 200
    await control(client, "POST", "faults", {"status": 503})
    assert (await control(client, "DELETE", "faults")).status == 200
    assert (await client.ask("GET", TAGS)).status == 200


async def test_a_held_request_is_let_go(client: Client, standin: StandIn) -> None:
    number = (await control(client, "POST", "faults", {"hold": True})).json["number"]
    asking = asyncio.create_task(client.ask("GET", TAGS))
    armed = standin.faults.find(number)
    assert armed is not None
    await armed.reached.wait()
    assert (await control(client, "GET", "faults")).json[0]["reached"]
    await control(client, "POST", f"faults/{number}/release")
    assert (await asking).status == 200


async def test_requests_are_told_and_forgotten(client: Client) -> None:
    await client.ask("GET", TAGS)
    [told] = (await control(client, "GET", "requests")).json
    assert (told["server"], told["path"], told["status"]) == ("registry", TAGS, 200)
    await client.ask("GET", TAGS)
    counts = (await control(client, "GET", "requests/counts")).json
    assert counts == [["registry", "GET", 200, 2]]
    await control(client, "DELETE", "requests")
    assert (await control(client, "GET", "requests")).json == []


async def test_the_state_is_told_and_changed(client: Client, standin: StandIn) -> None:
    await act(client, "create_repository", repository="team/new")
    await act(
        client,
        "put_manifest",
        repository="team/new",
        content="{}",
        media_type=OCI_MANIFEST,
        tag="t",
    )
    described = (await control(client, "GET", "state")).json
    assert [each["name"] for each in described] == [REPOSITORY, "team/new"]
    assert list(described[1]["tags"]) == ["t"]
    await act(client, "archive", repository="team/new", reference="t")
    assert (await client.ask("GET", "/v2/team/new/manifests/t")).status == 404
    digest = await client.push_blob(b"layer")
    await act(client, "delete_blob", repository=REPOSITORY, digest=digest)
    assert (await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")).status == 404
    await act(client, "lag", reads=1, seconds=5)
    assert (standin.state.lag_reads, standin.state.lag_seconds) == (1, 5.0)
    await act(client, "mounting", on=True)
    await act(client, "slow_down", on=True)
    assert standin.state.mounting
    assert standin.state.s3_slow_down


async def test_policy_time_and_tokens_are_changed(client: Client) -> None:
    await act(client, "deny", operation="ecr:ListImages", repository="team/*")
    assert (await client.ask("GET", TAGS)).status == 403
    await act(client, "allow")
    assert (await client.ask("GET", TAGS)).status == 200
    await act(client, "freeze")
    await act(client, "advance", seconds=13 * 3600)
    assert (await client.ask("GET", TAGS)).error[1] == "DENIED"
    await act(client, "advance", seconds=-13 * 3600)
    assert (await client.ask("GET", TAGS)).status == 200
    await act(client, "expire_tokens")
    assert (await client.ask("GET", TAGS)).error[1] == "DENIED"


async def test_credentials_are_handed_to_whoever_is_here(client: Client, standin: StandIn) -> None:
    told = (await control(client, "GET", "credentials")).json
    assert (told["host"], told["username"]) == (standin.host, "AWS")
    assert told["access_key_id"] == standin.access_key_id
    assert standin.state.tokens.check(told["password"])


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("POST", "faults", {"no": "such field"}, 400),
        ("POST", "faults", [1], 400),
        ("POST", "faults/9/release", None, 404),
        ("DELETE", "faults/x", None, 400),
        ("POST", "state", {"action": "unknown"}, 400),
        ("POST", "state", {"action": "archive", "repository": "none", "reference": "t"}, 400),
        ("GET", "unknown", None, 404),
    ],
)
async def test_a_control_that_makes_no_sense_is_refused(
    client: Client, method: str, path: str, value: Any, status: int
) -> None:
    answer = await control(client, method, path, value)
    assert answer.status == status
    assert answer.json["error"]
