"""What a client was told of a blob stays true whatever others do who push the same."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from proxy.upstream import Tuning
from tests.api.test_control import ask, socket_of
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for, straight_to, with_registry

COMMIT = Fault(server="registry", method="PUT", path="/blobs/uploads/", times=None)
MIB = 1024 * 1024
IMPATIENT = Timing(tuning=Tuning(push_patience=0.2, first_pause=0.01))


async def test_two_who_wait_to_push_the_same_blob_leave_nothing_that_stays_in_use(
    proxy: RunningProxy, standin: StandIn
) -> None:
    cache = Cache.of(b"of two clients")
    held = standin.faults.add(replace(COMMIT, hold=True))
    for number in range(128):  # as many as may be owed
        await proxy.client.push_blob("app", b"blob %d" % number)
    opened = sum(each.method == "POST" for each in standin.requests)
    pushes = [asyncio.create_task(cache.push_blobs(proxy.client, "app")) for _ in range(2)]
    # Both have sent all that they had to, and wait for their answers.
    while sum(each.method == "POST" for each in standin.requests) < opened + 2:
        await asyncio.wait(pushes, timeout=0.01)
    assert not any(push.done() for push in pushes)
    held.release()
    await asyncio.gather(*pushes)
    put = await proxy.client.push_manifest("app", "cache", cache.image_manifest, OCI_MANIFEST)
    assert put.status == 201
    await ask(socket_of(proxy), "prune", to="0")
    digest = Digest.of(cache.layers[0])
    assert not list((proxy.settings.cache_dir / "blobs").rglob(digest.hex))


async def test_a_blob_that_is_promised_is_owed_whatever_becomes_of_who_pushes_it_again(
    standin: StandIn, tmp_path: Path
) -> None:
    content = os.urandom(1000)
    notes = tmp_path / "records" / "debt"
    async with running(
        settings_for(registry_of(standin), cache_dir=tmp_path), timing=IMPATIENT
    ) as proxy:
        fault = standin.faults.add(replace(COMMIT, status=503))
        digest = await proxy.client.push_blob("app", content)
        # The disk takes no more notes: nothing else could be promised.
        notes.rename(tmp_path / "away")
        notes.write_bytes(b"")
        await proxy.client.push_blob("app", content)
        notes.unlink()
        (tmp_path / "away").rename(notes)
        standin.faults.remove(fault)
        await proxy.until_upstream(digest)
        async with straight_to(standin) as client:
            assert (await client.ask("HEAD", f"/v2/app/blobs/{digest}")).status == 200


async def test_an_upload_whose_end_was_tried_takes_nothing_more(
    standin: StandIn, tmp_path: Path
) -> None:
    """Its first end may come to be at any time, and would be taken for another one's."""
    settings = with_registry(
        settings_for(registry_of(standin), cache_dir=tmp_path), push_mode="write-through"
    )
    async with running(settings, timing=IMPATIENT) as proxy:
        started = await proxy.client.ask("POST", "/v2/app/blobs/uploads/")
        location = started.headers["Location"]
        fault = standin.faults.add(replace(COMMIT, status=503))
        ended = await proxy.client.ask("PUT", f"{location}?digest={Digest.of(b'1')}", body=b"1")
        assert ended.status == 503
        standin.faults.remove(fault)
        digest = Digest.of(b"12")
        again = await proxy.client.ask("PUT", f"{location}?digest={digest}", body=b"2")
        assert (again.status, b"BLOB_UPLOAD_UNKNOWN" in again.body) == (404, True)


async def test_what_is_owed_is_kept_by_a_start_with_less_room(
    standin: StandIn, tmp_path: Path
) -> None:
    """There is an eviction before anybody has a turn."""
    other = Cache.of(os.urandom(2 * MIB))
    for blob in other.blobs:
        standin.state.put_blob("other", blob)
    standin.state.put_manifest("other", other.image_manifest, OCI_MANIFEST)
    path = f"/v2/other/blobs/{Digest.of(other.layers[0])}"
    held = standin.faults.add(replace(COMMIT, hold=True))
    settings = replace(settings_for(registry_of(standin), cache_dir=tmp_path), shutdown_timeout=0.0)
    async with running(settings) as proxy:
        digest = await proxy.client.push_blob("app", os.urandom(2 * MIB))
        assert (await proxy.client.ask("GET", path)).status == 200
        await proxy.until(Kind.STORED, 2)
        for _ in range(5):
            await proxy.client.ask("GET", path)
        await proxy.stop()
        proxy.settings = replace(settings, cache_size=3 * MIB)
        await proxy.start()
        standin.faults.remove(held)
        await proxy.until_upstream(digest)


async def test_a_blob_that_has_rotted_on_disk_is_pushed_again(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """What is pushed is not stored again beside it, and it is the stored one that is sent."""
    content = os.urandom(1000)
    digest = await proxy.client.push_blob("app", content)
    await proxy.until_upstream(digest)
    path = next((proxy.settings.cache_dir / "blobs").rglob(digest.hex))
    path.write_bytes(bytes(1000))
    del standin.state.repository("app").blobs[digest]
    proxy.told.clear()
    for _ in range(2):
        # It is sent when it is promised, as most of a large one is.
        held = standin.faults.add(Fault(server="registry", method="POST", hold=True))
        await proxy.client.push_blob("app", content)
        held.release()
        await proxy.until(Kind.TROUBLE, 2)
    await proxy.until_upstream(digest)
    assert standin.state.files.path_of(digest).read_bytes() == content


async def _is_answered_only_when_upstream_has_it(
    proxy: RunningProxy, standin: StandIn, *, notes: int
) -> None:
    folder = proxy.settings.cache_dir / "records" / "debt"
    held = standin.faults.add(replace(COMMIT, hold=True))
    push = asyncio.create_task(proxy.client.push_blob("app", os.urandom(1000)))
    await held.reached.wait()
    while sum(path.is_file() for path in folder.rglob("*")) < notes:
        assert (await proxy.client.ask("GET", "/v2/")).status == 200
    for _ in range(100):
        assert (await proxy.client.ask("GET", "/v2/")).status == 200
    assert not push.done()
    held.release()
    await push


async def test_a_blob_of_which_no_note_can_be_made_is_upstream_when_it_is_taken(
    proxy: RunningProxy, standin: StandIn
) -> None:
    (proxy.settings.cache_dir / "records" / "debt").write_bytes(b"")
    await _is_answered_only_when_upstream_has_it(proxy, standin, notes=0)


async def test_a_blob_that_the_disk_does_not_keep_is_upstream_when_it_is_taken(
    proxy: RunningProxy, standin: StandIn
) -> None:
    (proxy.settings.cache_dir / "blobs" / "sha256").write_bytes(b"")
    await _is_answered_only_when_upstream_has_it(proxy, standin, notes=1)


async def test_an_upload_that_its_client_has_left_keeps_nobody_waiting(
    proxy: RunningProxy,
) -> None:
    location = (await proxy.client.ask("POST", "/v2/app/blobs/uploads/")).headers["Location"]
    content = os.urandom(4 * MIB)
    assert (await proxy.client.ask("PATCH", location, body=content)).status == 202
    metrics = (await proxy.client.ask("GET", "/metrics")).body.decode()
    assert re.findall(r"owed_bytes{.*} (.*)", metrics) == ["0.0"]
    done = await proxy.client.ask("PUT", f"{location}?digest={Digest.of(content)}")
    assert done.status == 201


async def test_a_manifest_that_is_taken_unseen_gets_nobody_a_blob(tmp_path: Path) -> None:
    """Not every registry looks for what a manifest names, and none for foreign layers."""
    settings = StandInSettings(repositories=("app", "other"), check_layers=False)
    async with (
        StandIn(settings) as standin,
        running(settings_for(registry_of(standin), cache_dir=tmp_path)) as proxy,
    ):
        secret = Cache.of(b"private")
        await secret.push_blobs(proxy.client, "other")
        await proxy.until_upstream(*map(Digest.of, secret.blobs))
        put = await proxy.client.push_manifest("app", "x", secret.image_manifest, OCI_MANIFEST)
        assert put.status == 201
        for method in ("HEAD", "GET"):
            path = f"/v2/app/blobs/{Digest.of(secret.layers[0])}"
            assert (await proxy.client.ask(method, path)).status == 404
