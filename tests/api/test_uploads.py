"""Uploads: whatever a client sends, ECR gets what it takes, and the client what the spec says."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

import aiohttp
import pytest

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import Digest
from proxy.services import straight
from proxy.services.window import Window
from proxy.standin import Fault, StandIn
from proxy.upstream import Tuning
from tests.running import Answer, RunningProxy, running, settings_for, straight_to

MIB = 1024 * 1024


async def _begin(proxy: RunningProxy, query: str = "") -> str:
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/{query}")
    assert answer.status == 202
    return answer.headers["Location"]


async def _patch(proxy: RunningProxy, location: str, content: bytes, start: int) -> Answer:
    headers = {"Content-Range": f"{start}-{start + len(content) - 1}"}
    return await proxy.client.ask("PATCH", location, headers=headers, body=content)


async def _commit(proxy: RunningProxy, location: str, content: bytes) -> Answer:
    return await proxy.client.ask("PUT", f"{location}?digest={Digest.of(content)}")


async def _stored(proxy: RunningProxy, standin: StandIn, content: bytes) -> bool:
    await proxy.until_upstream(Digest.of(content))
    async with straight_to(standin) as client:
        answer = await client.ask("HEAD", f"/v2/app/blobs/{Digest.of(content)}")
    return answer.status == 200


async def test_the_location_is_relative_and_needs_no_escaping(proxy: RunningProxy) -> None:
    location = await _begin(proxy)
    assert location.startswith("/v2/app/blobs/uploads/")
    assert unquote(location) == location
    # A client that decodes the path and re-sorts the query comes back all the same.
    content = b"some blob"
    query = urlencode(sorted(parse_qsl(f"digest={Digest.of(content)}&a=b")))
    done = await proxy.client.ask("PUT", f"{location}?{query}", body=content)
    assert done.status == 201
    assert done.digest == Digest.of(content)
    assert done.headers["Location"] == f"/v2/app/blobs/{Digest.of(content)}"


async def test_small_chunks_become_parts_that_ecr_takes(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """ECR refuses a part under 5 MiB that is not the last one; clients send what they like."""
    content = os.urandom(12 * MIB + 5)
    location = await _begin(proxy)
    for start in range(0, len(content), MIB):
        answer = await _patch(proxy, location, content[start : start + MIB], start)
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{min(start + MIB, len(content)) - 1}"
        location = answer.headers["Location"]
    assert (await _commit(proxy, location, content)).status == 201
    assert await _stored(proxy, standin, content)


async def test_one_stream_of_unknown_length_is_taken(proxy: RunningProxy, standin: StandIn) -> None:
    content = os.urandom(23 * MIB)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 300_000):
            yield content[start : start + 300_000]

    location = await _begin(proxy)
    answer = await proxy.client.ask("PATCH", location, body=stream())
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(content) - 1}")
    assert (await _commit(proxy, answer.headers["Location"], content)).status == 201
    assert await _stored(proxy, standin, content)


async def test_a_single_post_with_a_digest_is_a_whole_upload(
    proxy: RunningProxy, standin: StandIn
) -> None:
    content = b"posted"
    answer = await proxy.client.ask(
        "POST", f"/v2/app/blobs/uploads/?digest={Digest.of(content)}", body=content
    )
    assert (answer.status, answer.digest) == (201, Digest.of(content))
    assert await _stored(proxy, standin, content)


async def test_a_chunk_that_does_not_follow_is_a_416_and_the_upload_goes_on(
    proxy: RunningProxy,
) -> None:
    content = b"0123456789"
    location = await _begin(proxy)
    await _patch(proxy, location, content[:5], 0)
    for start in (0, 7):
        refused = await _patch(proxy, location, content[start : start + 2], start)
        assert refused.status == 416
        status = await proxy.client.ask("GET", location)
        assert (status.status, status.headers["Range"]) == (204, "0-4")
    refused = await proxy.client.ask(
        "PUT",
        f"{location}?digest={Digest.of(content)}",
        headers={"Content-Range": "7-9"},
        body=content[7:],
    )
    assert refused.status == 416
    await _patch(proxy, location, content[5:], 5)
    assert (await _commit(proxy, location, content)).status == 201


async def test_a_wrong_digest_is_refused_and_nothing_is_kept(
    proxy: RunningProxy, standin: StandIn
) -> None:
    location = await _begin(proxy)
    wrong = Digest.of(b"other bytes")
    answer = await proxy.client.ask("PUT", f"{location}?digest={wrong}", body=b"bytes")
    assert answer.status == 400
    assert b"DIGEST_INVALID" in answer.body
    assert Digest.of(b"bytes").encode() in answer.body
    assert (await proxy.client.ask("GET", location)).status == 404
    assert (await proxy.client.ask("GET", f"/v2/app/blobs/{wrong}")).status == 404


async def test_an_upload_without_a_digest_is_refused(proxy: RunningProxy) -> None:
    location = await _begin(proxy)
    answer = await proxy.client.ask("PUT", location, body=b"bytes")
    assert answer.status == 400
    assert b"DIGEST_INVALID" in answer.body


async def test_a_forged_location_is_unknown(proxy: RunningProxy) -> None:
    location = await _begin(proxy)
    for forged in (
        location[:-1] + ("A" if location[-1] != "A" else "B"),
        "/v2/app/blobs/uploads/made-up",
        location.replace("/app/", "/other/"),  # not even for another repository
        location[:-1] + "%0DX-Injected:" + location[-1],  # what base64 passes over
        location + "%20",
    ):
        answer = await proxy.client.ask("PATCH", forged, body=b"x")
        assert answer.status == 404, forged
        assert b"BLOB_UPLOAD_UNKNOWN" in answer.body


async def test_an_upload_that_is_asked_for_while_it_is_finished_is_not_begun_anew(
    proxy: RunningProxy,
) -> None:
    content = os.urandom(8 * 1024 * 1024)
    digest = Digest.of(content, "sha512")  # another one than that of the upload: it is read again
    location = await _begin(proxy)
    asking = proxy.client.ask("PUT", f"{location}?digest={digest}", body=content)
    finishing = asyncio.ensure_future(asking)
    while not finishing.done():
        await proxy.client.ask("GET", location)
    assert finishing.result().status == 201
    assert (await proxy.client.ask("GET", location)).status == 404
    assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).body == content


async def test_a_cancelled_upload_is_unknown(proxy: RunningProxy) -> None:
    location = await _begin(proxy)
    assert (await proxy.client.ask("DELETE", location)).status == 204
    assert (await proxy.client.ask("GET", location)).status == 404


async def test_requests_that_meet_at_one_upload_end_without_a_fault(proxy: RunningProxy) -> None:
    """Whoever comes while it is being dropped must not bring it back from disk."""
    for _ in range(5):
        location = await _begin(proxy)
        answers = await asyncio.gather(
            proxy.client.ask("PUT", f"{location}?digest={Digest.of(b'other')}", body=b"bytes"),
            proxy.client.ask("DELETE", location),
            *(proxy.client.ask("PATCH", location, body=b"bytes" * 100_000) for _ in range(4)),
        )
        assert {answer.status for answer in answers} <= {202, 204, 400, 404}
        assert (await proxy.client.ask("GET", location)).status == 404


async def test_an_upload_goes_on_after_a_restart(proxy: RunningProxy, standin: StandIn) -> None:
    content = os.urandom(11 * MIB)
    location = await _begin(proxy)
    await _patch(proxy, location, content[: 10 * MIB + 3], 0)
    await proxy.restart()
    status = await proxy.client.ask("GET", location)
    assert status.headers["Range"] == f"0-{10 * MIB + 2}"
    await _patch(proxy, location, content[10 * MIB + 3 :], 10 * MIB + 3)
    assert (await _commit(proxy, location, content)).status == 201
    assert await _stored(proxy, standin, content)


async def test_an_upload_that_is_only_asked_for_after_a_restart_keeps_nobody_waiting(
    proxy: RunningProxy,
) -> None:
    location = await _begin(proxy)
    await _patch(proxy, location, os.urandom(4 * MIB), 0)
    await proxy.restart()
    assert (await proxy.client.ask("GET", location)).status == 204
    metrics = (await proxy.client.ask("GET", "/metrics")).body.decode()
    assert re.findall(r"owed_bytes{.*} (.*)", metrics) == ["0.0"]


async def test_a_client_that_breaks_off_can_go_on_where_it_stood(proxy: RunningProxy) -> None:
    content = b"a" * 1000

    async def cut() -> AsyncIterator[bytes]:
        yield content[:400]
        raise ConnectionError

    location = await _begin(proxy)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await proxy.client.ask("PATCH", location, body=cut())
    status = await proxy.client.ask("GET", location)
    stands = int(status.headers["Range"].removeprefix("0-")) + 1
    stands = 0 if stands == 1 else stands
    answer = await _patch(proxy, location, content[stands:], stands)
    if answer.status == 416:  # what it had sent before was taken in only after it had asked
        stands = int(answer.headers["Range"].removeprefix("0-")) + 1
        answer = await _patch(proxy, location, content[stands:], stands)
    assert answer.status == 202
    assert (await _commit(proxy, location, content)).status == 201


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_an_upload_that_upstream_fails_is_begun_anew_from_disk(
    proxy: RunningProxy, standin: StandIn, status: int
) -> None:
    content = os.urandom(11 * MIB)
    standin.faults.add(
        Fault(server="registry", method="PUT", path="/blobs/uploads/", status=status)
    )
    location = await _begin(proxy)
    answer = await proxy.client.ask("PUT", f"{location}?digest={Digest.of(content)}", body=content)
    assert answer.status == 201
    assert await _stored(proxy, standin, content)
    # What is throttled was not done, and is simply sent again.
    assert (Kind.TROUBLE in proxy.kinds()) == (status != 429)


async def test_an_upload_without_room_on_disk_goes_through(
    standin: StandIn, tmp_path: Path
) -> None:
    content = os.urandom(23 * MIB)
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=12 * MIB)
    async with running(settings) as proxy:
        location = await _begin(proxy)
        for start in range(0, len(content), 3 * MIB):
            answer = await _patch(proxy, location, content[start : start + 3 * MIB], start)
            assert answer.status == 202
        assert (await _commit(proxy, location, content)).status == 201
    assert await _stored(proxy, standin, content)


async def test_an_upload_that_fails_without_room_on_disk_is_begun_anew_by_its_client(
    standin: StandIn, tmp_path: Path
) -> None:
    """What upstream lost is nowhere any more: going on would commit other bytes than were sent."""
    content = os.urandom(16 * MIB)
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=4 * MIB)
    async with running(settings) as proxy:
        location = await _begin(proxy)
        assert (await _patch(proxy, location, content[: 12 * MIB], 0)).status == 202
        standin.faults.add(Fault(server="registry", method="PATCH", status=500))
        failed = await _patch(proxy, location, content[12 * MIB :] + content, 12 * MIB)
        assert failed.status == 502
        gone = await proxy.client.ask("GET", location)
        assert (gone.status, b"BLOB_UPLOAD_UNKNOWN" in gone.body) == (404, True)
        await proxy.client.push_blob("app", content)
    assert await _stored(proxy, standin, content)


async def test_an_upload_that_fails_as_it_leaves_the_disk_is_begun_anew_by_its_client(
    standin: StandIn, tmp_path: Path
) -> None:
    """Else its end would wait for what nobody sends any more."""
    content = os.urandom(15 * MIB)
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=13 * MIB)
    timing = Timing(tuning=Tuning(first_pause=1.0))
    async with running(settings, timing=timing) as proxy:
        await proxy.client.push_blob("app", b"taken before")
        await proxy.until_upstream(Digest.of(b"taken before"))
        location = await _begin(proxy)
        # What is on disk is not sent, for a second: the disk is full by then.
        standin.faults.add(Fault(server="registry", method="POST", status=500))
        standin.faults.add(Fault(server="registry", method="PATCH", status=500))
        assert (await _patch(proxy, location, content, 0)).status == 502
        gone = await proxy.client.ask("GET", location)
        assert (gone.status, b"BLOB_UPLOAD_UNKNOWN" in gone.body) == (404, True)
        await proxy.client.push_blob("app", content)
    assert await _stored(proxy, standin, content)


async def test_memory_takes_no_more_than_a_part_where_the_disk_is_full(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart all that was sent is owed to a new upload."""
    held: list[int] = []

    class Watched(Window):
        async def append(self, chunk: bytes) -> None:
            await super().append(chunk)
            held.append(len(self._bytes))

    monkeypatch.setattr(straight, "Window", Watched)
    content = os.urandom(26 * MIB)
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), cache_size=24 * MIB)
    async with running(settings) as proxy:
        location = await _begin(proxy)
        await _patch(proxy, location, content[: 19 * MIB], 0)
        await proxy.restart()
        stands = int((await proxy.client.ask("GET", location)).headers["Range"][2:]) + 1
        assert (await _patch(proxy, location, content[stands:], stands)).status == 202
        assert (await _commit(proxy, location, content)).status == 201
    assert await _stored(proxy, standin, content)
    assert 0 < max(held) < 11 * MIB


async def test_a_mount_from_what_can_be_no_repository_becomes_an_upload(
    proxy: RunningProxy,
) -> None:
    mount = f"?mount={Digest.of(b'anything')}&from=No%20Repository"
    assert (await proxy.client.ask("POST", f"/v2/app/blobs/uploads/{mount}")).status == 202


async def test_a_mount_that_ecr_declines_and_the_disk_cannot_make_becomes_an_upload(
    proxy: RunningProxy, standin: StandIn
) -> None:
    async with straight_to(standin) as client:
        digest = await client.push_blob("other", b"mountable")
    answer = await proxy.client.ask("POST", f"/v2/app/blobs/uploads/?mount={digest}&from=other")
    assert answer.status == 202
    done = await proxy.client.ask(
        "PUT", f"{answer.headers['Location']}?digest={digest}", body=b"mountable"
    )
    assert done.status == 201


async def test_a_repository_that_is_missing_is_named(proxy: RunningProxy) -> None:
    answer = await proxy.client.ask("POST", "/v2/nowhere/blobs/uploads/")
    assert answer.status == 404
    assert b"NAME_UNKNOWN" in answer.body
    assert b"nowhere" in answer.body
