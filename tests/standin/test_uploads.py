"""Pushing blobs: ECR.md §4, the stand-in's lines 18 to 23."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from proxy.oci import Digest
from proxy.standin.refusals import Refusal
from proxy.standin.settings import MIB
from proxy.standin.uploads import PART, Upload
from tests.standin.client import REPOSITORY, Answer, Client
from tests.standin.conftest import Running


async def patch(client: Client, location: str, content: bytes, start: int | None) -> Answer:
    headers = {"Content-Type": "application/octet-stream"}
    if start is not None:
        headers["Content-Range"] = f"{start}-{start + len(content) - 1}"
    return await client.ask("PATCH", location, headers=headers, body=content)


async def finish(client: Client, location: str, content: bytes, body: bytes = b"") -> Answer:
    return await client.ask("PUT", f"{location}?digest={Digest.of(content)}", body=body)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_post_answers_202_with_an_absolute_location_and_no_upload_uuid(
    client: Client,
) -> None:
    answer = await client.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/")
    assert (answer.status, answer.body) == (202, b"")
    assert URL(answer.location).is_absolute()
    assert answer.location.startswith(f"{client.standin.url}/v2/{REPOSITORY}/blobs/uploads/")
    assert answer.headers["Range"] == "0-0"
    assert "Docker-Upload-UUID" not in answer.headers


async def test_the_location_points_where_the_client_addressed_the_stand_in(client: Client) -> None:
    port = URL(client.standin.url).port
    answer = await client.ask(
        "POST", f"/v2/{REPOSITORY}/blobs/uploads/", headers={"Host": f"localhost:{port}"}
    )
    assert answer.location.startswith(f"http://localhost:{port}/v2/")


async def test_patch_answers_201_with_a_range_that_stays_stale(client: Client) -> None:
    location = await client.start()
    first, second = b"a" * (10 * MIB), b"b" * (6 * MIB)
    answer = await patch(client, location, first, 0)
    assert (answer.status, answer.headers["Range"]) == (201, "0-10485759")
    assert answer.location == location
    answer = await patch(client, location, second, len(first))
    assert (answer.status, answer.headers["Range"]) == (201, "0-10485759")
    answer = await finish(client, location, first + second + b"c", b"c")
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == Digest.of(first + second + b"c")


async def test_a_stream_of_unknown_length_is_taken(client: Client) -> None:
    location = await client.start()
    answer = await client.ask("PATCH", location, body=pieces(b"one", b"two"))
    assert (answer.status, answer.headers["Range"]) == (201, "0-5")
    assert (await finish(client, location, b"onetwo")).status == 201


@pytest.mark.parametrize("start", [0, 4, 6, None])
async def test_a_chunk_at_the_wrong_offset_is_416(client: Client, start: int | None) -> None:
    location = await client.start()
    assert (await patch(client, location, b"first", 0)).status == 201
    assert (await patch(client, location, b"again", start)).error == (
        416,
        "BLOB_UPLOAD_INVALID",
        f"First byte of the layer part is {start or 0} instead of 5",
    )
    assert (await finish(client, location, b"first")).status == 201


async def test_a_last_chunk_at_the_wrong_offset_is_416(client: Client) -> None:
    location = await client.start()
    assert (await patch(client, location, b"first", 0)).status == 201
    answer = await client.ask(
        "PUT",
        f"{location}?digest={Digest.of(b'firstlast')}",
        headers={"Content-Range": "9-12"},
        body=b"last",
    )
    assert answer.error[2] == "First byte of the layer part is 9 instead of 5"


@pytest.mark.parametrize("text", ["5-1", "x", "0-3", "bytes"])
async def test_a_content_range_that_makes_no_sense_is_416(client: Client, text: str) -> None:
    location = await client.start()
    answer = await client.ask("PATCH", location, headers={"Content-Range": text}, body=b"12345")
    assert answer.error[:2] == (416, "BLOB_UPLOAD_INVALID")


@pytest.mark.parametrize(
    ("sizes", "status"),
    [
        ((5 * MIB, 1), 201),
        ((5 * MIB - 1, 1), 400),
        # A stream is cut into parts of 10 MiB: its rest is a part of its own, and not the last.
        ((12 * MIB, 1), 400),
        ((10 * MIB, 10 * MIB, 1), 201),
        ((12 * MIB,), 201),
    ],
)
async def test_a_short_part_that_is_not_the_last_is_refused_at_put(
    client: Client, sizes: tuple[int, ...], status: int
) -> None:
    location, content = await client.start(), b""
    for size in sizes:
        answer = await patch(client, location, b"x" * size, len(content))
        assert answer.status == 201
        content += b"x" * size
    answer = await finish(client, location, content)
    assert answer.status == status
    if status == 400:
        assert answer.error == (
            400,
            "BLOB_UPLOAD_INVALID",
            "All layer parts except the last part should be at least 5MB",
        )


async def test_put_with_the_whole_body_is_201(client: Client) -> None:
    location = await client.start()
    answer = await finish(client, location, b"a layer", b"a layer")
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["Docker-Content-Digest"] == Digest.of(b"a layer")
    again = await client.push_blob(b"a layer")  # what exists already is taken again
    head = await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{again}")
    assert head.status == 200


async def test_put_without_any_bytes_is_400(client: Client) -> None:
    location = await client.start()
    upload = location.rpartition("/")[2]
    assert (await finish(client, location, b"")).error == (
        400,
        "BLOB_UPLOAD_INVALID",
        (
            f"The upload with id '{upload}' in the repository with name '{REPOSITORY}' in registry "
            "with id '123456789012' cannot be completed because it does not have any parts"
        ),
    )


async def test_put_under_a_wrong_digest_is_400_and_stores_nothing(client: Client) -> None:
    answer = await finish(client, await client.start(), b"another", b"a layer")
    assert answer.error == (
        400,
        "BLOB_UPLOAD_INVALID",
        "None of the provided layer digests match the calculated layer digest",
    )
    for content in (b"another", b"a layer"):
        head = await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{Digest.of(content)}")
        assert head.status == 404


@pytest.mark.parametrize(
    "query", ["", "?digest=", "?digest=md5:abc", "?digest=sha512:" + "0" * 128]
)
async def test_put_under_no_sha256_digest_is_400(client: Client, query: str) -> None:
    answer = await client.ask("PUT", await client.start() + query, body=b"x")
    assert answer.error[:2] == (400, "DIGEST_INVALID")


async def test_an_upload_is_known_in_its_own_repository_only(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/other")) as client:
        location = await client.start()
        elsewhere = location.replace(REPOSITORY, "team/other")
        assert (await patch(client, elsewhere, b"x", 0)).error[:2] == (404, "BLOB_UPLOAD_UNKNOWN")
        assert (await finish(client, location, b"x", b"x")).status == 201
        assert (await finish(client, location, b"x", b"x")).status == 404  # and only once


async def test_a_monolithic_post_starts_an_upload_and_ignores_the_body(client: Client) -> None:
    answer = await client.ask(
        "POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={Digest.of(b'x')}", body=b"x"
    )
    assert answer.status == 202


async def test_status_and_cancel_are_refused_unless_switched_on(running: Running) -> None:
    async with running() as client:
        location = await client.start()
        for method in ("GET", "DELETE"):
            assert (await client.ask(method, location)).error[:2] == (405, "UNSUPPORTED")
    async with running(upload_verbs=True) as client:
        location = await client.start()
        await patch(client, location, b"12345", 0)
        answer = await client.ask("GET", location)
        assert (answer.status, answer.headers["Range"]) == (204, "0-4")
        assert (await client.ask("DELETE", location)).status == 204
        assert (await client.ask("GET", location)).status == 404


async def test_expect_continue_is_answered_before_the_body_is_sent(client: Client) -> None:
    answer = await client.ask(
        "PUT",
        f"{await client.start()}?digest={Digest.of(b'x')}",
        headers={"Expect": "100-continue"},
        body=b"x",
    )
    assert answer.status == 201


# Mounting


async def mount(client: Client, digest: Digest, source: str) -> Answer:
    return await client.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/?mount={digest}&from={source}")


async def test_mounting_is_off_by_default_and_answers_202(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/base")) as client:
        await client.push_image(b"layer", repository="team/base")
        answer = await mount(client, Digest.of(b"layer"), "team/base")
        assert answer.status == 202
        assert "/blobs/uploads/" in answer.location


async def test_a_referenced_blob_is_mounted_when_mounting_is_on(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/base"), mounting=True) as client:
        await client.push_image(b"layer", repository="team/base")
        digest = Digest.of(b"layer")
        answer = await mount(client, digest, "team/base")
        assert answer.status == 201
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.location.endswith(f"/v2/{REPOSITORY}/blobs/{digest}")
        assert (await client.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")).status == 200


async def test_what_may_not_be_mounted_answers_202(running: Running) -> None:
    async with running(repositories=(REPOSITORY, "team/base"), mounting=True) as client:
        orphan = await client.push_blob(b"orphan", "team/base")
        state = client.standin.state
        state.create_repository("team/kms", encryption="KMS")
        await client.push_image(b"layer", repository="team/kms")
        cases = [
            (orphan, "team/base"),  # no image of the source needs it
            (Digest.of(b"layer"), "team/kms"),  # encrypted otherwise
            (Digest.of(b"never"), "team/base"),
            (orphan, "team/nothing"),
        ]
        for digest, source in cases:
            assert (await mount(client, digest, source)).status == 202


def test_an_upload_has_4200_parts_at_most(tmp_path: Path) -> None:
    upload = Upload("123456789012", REPOSITORY, tmp_path)
    upload.size = 4200 * PART
    upload.end_request(0)
    upload.size += 1
    with pytest.raises(Refusal, match="more than 4200 parts"):
        upload.end_request(upload.size - 1)
