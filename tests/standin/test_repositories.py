"""Repositories that are not there, and rates: ECR.md §4 and §5, the stand-in's lines 11, 34, 35."""

from __future__ import annotations

import aiohttp
import pytest

from tests.standin.client import REPOSITORY, Client, image
from tests.standin.conftest import Running


async def test_a_push_to_an_unknown_repository_is_404(client: Client) -> None:
    answer = await client.ask("POST", "/v2/team/none/blobs/uploads/")
    assert answer.error == (
        404,
        "NAME_UNKNOWN",
        (
            "The repository with name 'team/none' does not exist in the registry with id "
            "'123456789012'"
        ),
    )


async def test_the_repository_is_looked_at_before_what_is_pushed(client: Client) -> None:
    answer = await client.put_manifest(b"no JSON", repository="team/none")
    assert answer.error[:2] == (404, "NAME_UNKNOWN")


async def test_a_push_to_an_unknown_repository_can_close_the_socket(running: Running) -> None:
    async with running(unknown_repository_closes_socket=True) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.ask("POST", "/v2/team/none/blobs/uploads/")
        assert (await client.ask("GET", "/v2/team/none/tags/list")).status == 404
        assert client.standin.requests[0].status == 0


@pytest.mark.parametrize(
    ("prefixes", "name", "status"),
    [
        ((), "ci/app", 404),
        (("ci",), "ci/app", 202),
        (("ci/",), "ci/app/cache", 202),
        (("ci",), "ci", 202),
        (("ci",), "cider/app", 404),
        (("ROOT",), "anything/goes", 202),
    ],
)
async def test_a_repository_is_created_on_push_only_where_a_template_says_so(
    running: Running, prefixes: tuple[str, ...], name: str, status: int
) -> None:
    async with running(create_on_push=prefixes) as client:
        assert (await client.ask("GET", f"/v2/{name}/tags/list")).status == 404
        assert (await client.ask("POST", f"/v2/{name}/blobs/uploads/")).status == status
        listed = await client.ask("GET", f"/v2/{name}/tags/list")
        assert listed.status == (200 if status == 202 else 404)


async def test_put_image_is_limited_to_10_a_second(client: Client) -> None:
    clock = client.standin.state.clock
    clock.freeze()
    content = image([b"never pushed"])
    answers = [await client.put_manifest(content) for _ in range(11)]
    assert [answer.status for answer in answers] == [404] * 10 + [429]
    assert answers[-1].body == (
        b'{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}\n'
    )
    clock.advance(0.15)
    assert [(await client.put_manifest(content)).status for _ in range(2)] == [404, 429]


@pytest.mark.parametrize(
    ("operation", "method", "path"),
    [
        ("BatchGetImage", "GET", "manifests/latest"),
        ("GetDownloadUrlForLayer", "GET", "blobs/sha256:" + "0" * 64),
        ("BatchCheckLayerAvailability", "HEAD", "blobs/sha256:" + "0" * 64),
        ("InitiateLayerUpload", "POST", "blobs/uploads/"),
        ("UploadLayerPart", "PATCH", "blobs/uploads/id"),
        ("CompleteLayerUpload", "PUT", "blobs/uploads/id"),
    ],
)
async def test_every_operation_has_a_rate_of_its_own(
    running: Running, operation: str, method: str, path: str
) -> None:
    async with running(rates={operation: 2}) as client:
        client.standin.state.clock.freeze()
        answers = [await client.ask(method, f"/v2/{REPOSITORY}/{path}") for _ in range(3)]
        assert answers[1].status != 429
        assert answers[2].status == 429
        assert (await client.ask("GET", f"/v2/{REPOSITORY}/tags/list")).status == 200


async def test_rates_can_be_switched_off(running: Running) -> None:
    async with running(rate_limits=False) as client:
        content = image([b"never pushed"])
        answers = {(await client.put_manifest(content)).status for _ in range(15)}
        assert answers == {404}
