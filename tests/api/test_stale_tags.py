"""Tags while upstream cannot be asked: readers get what was, marked as such; pushers never do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.config import RegistrySettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn
from proxy.upstream import Tuning
from tests.caches import ALL_TYPES, OLD, Cache, only
from tests.clocks import Clock
from tests.running import Answer, RunningProxy, running, settings_for

CACHE = Cache.of(b"a layer", b"another")
DIGEST = Digest.of(CACHE.image_manifest)
TAG = "/v2/app/manifests/t"
BY_DIGEST = f"/v2/app/manifests/{DIGEST}"
STALE_SECONDS = 600.0
AGE = "Ecr-Cache-Proxy-Age"

# A wait that is asked for beyond all patience: the proxy fails at once.
OUTAGE = Fault(server="registry", status=503, headers={"Retry-After": "99"}, times=None)
OUTAGES = {
    "unavailable": OUTAGE,
    "throttled": replace(OUTAGE, status=429),
    "timeout": replace(OUTAGE, status=504),
}


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path, clock: Clock) -> AsyncIterator[RunningProxy]:
    """One that has read the tag a moment ago."""
    CACHE.seed(standin, "app", "t")
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    settings = replace(settings, stale_if_error=STALE_SECONDS)
    tuning = Tuning(first_probe=0.01, last_probe=0.05)
    timing = Timing(clock=clock, now=clock, tuning=tuning)
    async with running(settings, timing=timing) as proxy:
        assert (await proxy.client.ask("GET", TAG)).status == 200
        yield proxy


def _assert_stale(answer: Answer, age: int) -> None:
    assert answer.status == 200
    assert answer.headers["Warning"] == '110 - "Response is Stale"'
    assert answer.headers[AGE] == str(age)


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_a_reader_gets_what_the_tag_was_and_is_told_so(
    standin: StandIn, proxy: RunningProxy, clock: Clock, fault: Fault
) -> None:
    standin.faults.add(fault)
    clock.now += STALE_SECONDS - 1
    for method in ("HEAD", "GET"):
        got = await proxy.client.ask(method, TAG, headers=ALL_TYPES)
        _assert_stale(got, 599)
        assert got.digest == DIGEST


async def test_an_old_client_gets_its_form_of_what_the_tag_was(
    standin: StandIn, proxy: RunningProxy
) -> None:
    standin.faults.add(OUTAGE)
    got = await proxy.client.ask("GET", TAG, headers=OLD | ALL_TYPES)
    _assert_stale(got, 0)
    assert got.body == CACHE.index


async def test_no_tag_is_stale_for_longer_than_is_configured(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    standin.faults.add(OUTAGE)
    clock.now += STALE_SECONDS
    assert (await proxy.client.ask("GET", TAG)).status == 503


async def test_when_the_clock_was_set_back_nobody_knows_how_old_an_answer_is(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    standin.faults.add(OUTAGE)
    clock.now -= 3600
    assert (await proxy.client.ask("GET", TAG)).status == 503


async def test_what_upstream_says_again_and_again_does_not_grow_old(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    clock.now += STALE_SECONDS - 1
    fresh = await proxy.client.ask("HEAD", TAG)
    assert fresh.status == 200
    assert AGE not in fresh.headers
    assert "Warning" not in fresh.headers
    standin.faults.add(OUTAGE)
    clock.now += STALE_SECONDS - 1
    _assert_stale(await proxy.client.ask("HEAD", TAG), 599)


async def test_what_a_tag_was_is_known_after_a_restart(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    await proxy.restart()
    standin.faults.add(OUTAGE)
    clock.now += 77
    _assert_stale(await proxy.client.ask("GET", TAG), 77)


async def test_a_tag_pushed_through_the_proxy_is_known_too(
    standin: StandIn, proxy: RunningProxy
) -> None:
    pushed = await proxy.client.push_manifest("app", "mine", CACHE.index, OCI_INDEX)
    assert pushed.status == 201
    await proxy.restart()
    standin.faults.add(OUTAGE)
    got = await proxy.client.ask("GET", "/v2/app/manifests/mine", headers=OLD | ALL_TYPES)
    _assert_stale(got, 0)
    assert got.body == CACHE.index


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_answer_of_upstream_ends_what_a_tag_was(
    standin: StandIn, proxy: RunningProxy, status: int, restarted: bool
) -> None:
    denial = standin.faults.add(replace(OUTAGE, status=status, headers={}))
    # Refused credentials are the proxy's own, so to its client a fault of the proxy.
    expected = 503 if status == 401 else status
    assert (await proxy.client.ask("GET", TAG)).status == expected
    standin.faults.remove(denial)
    if restarted:
        await proxy.restart()
    standin.faults.add(OUTAGE)
    assert (await proxy.client.ask("GET", TAG)).status == 503


@pytest.mark.parametrize("reference", ["t", DIGEST])
async def test_what_was_deleted_through_the_proxy_is_not_served_stale(
    standin: StandIn, proxy: RunningProxy, clock: Clock, reference: str
) -> None:
    clock.now += 1
    path = f"/v2/app/manifests/{reference}"
    assert (await proxy.client.ask("DELETE", path)).status == 202
    # The same content again, under another tag.
    for blob in CACHE.blobs:
        standin.state.put_blob("app", blob)
    clock.now += 1
    pushed = await proxy.client.push_manifest("app", "u", CACHE.image_manifest, OCI_MANIFEST)
    assert pushed.status == 201
    standin.faults.add(OUTAGE)
    assert (await proxy.client.ask("GET", TAG)).status == 503
    _assert_stale(await proxy.client.ask("GET", "/v2/app/manifests/u"), 0)


async def test_a_tag_whose_manifest_is_not_here_is_not_named(
    standin: StandIn, proxy: RunningProxy
) -> None:
    """Its reader could do nothing with the name alone."""
    await proxy.restart()
    (file,) = (f for f in (proxy.settings.cache_dir / "records/manifest").rglob("*") if f.is_file())
    file.unlink()
    standin.faults.add(OUTAGE)
    for method in ("HEAD", "GET"):
        assert (await proxy.client.ask(method, TAG)).status == 503


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST])
async def test_a_client_that_is_about_to_push_is_told_of_the_trouble(
    standin: StandIn, proxy: RunningProxy, media_type: str
) -> None:
    proxy.timing = replace(proxy.timing, tuning=Tuning(push_patience=0.5))
    await proxy.restart()
    standin.faults.add(OUTAGE)
    for path in (TAG, BY_DIGEST):
        told = await proxy.client.ask("HEAD", path, headers=only(media_type))
        assert told.status == 503, path
        assert "503" in told.headers["Ecr-Cache-Proxy-Error"]
        # Who reads gets it all the same.
        for method in ("HEAD", "GET"):
            headers = ALL_TYPES if method == "HEAD" else only(media_type)
            assert (await proxy.client.ask(method, path, headers=headers)).status == 200


@pytest.mark.parametrize("path", [TAG, BY_DIGEST])
async def test_for_a_client_that_is_about_to_push_trouble_is_waited_out(
    standin: StandIn, proxy: RunningProxy, path: str
) -> None:
    """By more attempts than a reader's question gets."""
    proxy.timing = replace(proxy.timing, tuning=Tuning(first_pause=0.001))
    await proxy.restart()
    fault = Fault(server="registry", method="HEAD", path="/manifests/", status=503, times=8)
    trouble = standin.faults.add(fault)
    got = await proxy.client.ask("HEAD", path, headers=only(OCI_MANIFEST))
    assert (got.status, got.digest) == (200, DIGEST)
    assert "Warning" not in got.headers
    assert trouble.is_spent


async def test_a_request_may_refuse_stale_answers(standin: StandIn, proxy: RunningProxy) -> None:
    standin.faults.add(OUTAGE)
    for method in ("HEAD", "GET"):
        got = await proxy.client.ask(method, TAG, headers={"Cache-Control": "no-cache"})
        assert got.status == 503


async def test_stale_answers_are_told_of_once_in_a_while(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    def told() -> int:
        return sum(e.kind is Kind.TROUBLE and "last pointed at" in e.detail for e in proxy.told)

    standin.faults.add(OUTAGE)
    for _ in range(3):
        await proxy.client.ask("GET", TAG)
    assert told() == 1
    clock.now += 60
    for _ in range(3):
        await proxy.client.ask("GET", TAG)
    assert told() == 2


async def test_in_a_chain_a_stale_answer_says_so_and_none_goes_to_a_client_that_pushes(
    standin: StandIn, proxy: RunningProxy, clock: Clock, tmp_path: Path
) -> None:
    parent = RegistrySettings(name=proxy.address, url=f"http://{proxy.address}")
    settings = settings_for(parent, cache_dir=tmp_path / "child")
    async with running(settings, timing=Timing(clock=clock, now=clock)) as child:
        standin.faults.add(OUTAGE)
        clock.now += 77
        _assert_stale(await child.client.ask("HEAD", TAG, headers=ALL_TYPES), 77)
        told = await child.client.ask("HEAD", TAG, headers=only(OCI_MANIFEST))
        assert told.status == 503


async def test_what_a_tag_is_is_not_written_down_again_and_again(
    proxy: RunningProxy, clock: Clock
) -> None:
    def written() -> int:
        (file,) = (f for f in (proxy.settings.cache_dir / "records/tag").rglob("*") if f.is_file())
        return file.stat().st_ino  # each time it is another file

    first = written()
    clock.now += 299
    await proxy.client.ask("HEAD", TAG)
    assert written() == first
    clock.now += 1
    await proxy.client.ask("HEAD", TAG)
    assert written() != first


async def test_what_a_stale_tag_names_is_read_from_disk_after_a_restart_too(
    standin: StandIn, proxy: RunningProxy
) -> None:
    """A build that was told of a cache, and then gets no layer of it, fails."""
    for blob in CACHE.blobs:
        path = f"/v2/app/blobs/{Digest.of(blob)}"
        assert (await proxy.client.ask("GET", path)).body == blob
    await proxy.until(Kind.STORED, times=len(CACHE.blobs))
    await proxy.restart()
    standin.faults.add(replace(OUTAGE, server=""))
    layer = f"blobs/{Digest.of(CACHE.layers[0])}"
    assert (await proxy.client.ask("GET", f"/v2/app/{layer}")).status == 503
    _assert_stale(await proxy.client.ask("HEAD", TAG, headers=ALL_TYPES), 0)
    assert (await proxy.client.ask("GET", f"/v2/app/{layer}")).body == CACHE.layers[0]
    # To others it says nothing, nor when upstream has an answer of its own.
    assert (await proxy.client.ask("GET", f"/v2/other/{layer}")).status == 503
    standin.faults.clear()
    await proxy.until(Kind.RECOVERED)
    standin.state.delete_blob("app", Digest.of(CACHE.layers[0]))
    assert (await proxy.client.ask("GET", f"/v2/app/{layer}")).status == 404


def _described(content: bytes, kind: str, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": Digest.of(content), "size": len(content), **more}


LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
SECRET = CACHE.layers[0]
UNCHECKED = {
    "foreign": {"layers": [_described(b"own", LAYER), _described(SECRET, FOREIGN)]},
    "blobs": {"blobs": [_described(SECRET, LAYER)]},
    "manifests": {"manifests": [_described(SECRET, OCI_MANIFEST)]},
}


@pytest.mark.parametrize("more", UNCHECKED.values(), ids=UNCHECKED)
@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_a_blob_of_another_repository_is_not_had_by_naming_it_where_ecr_does_not_look(
    standin: StandIn, proxy: RunningProxy, fault: Fault, more: dict[str, object]
) -> None:
    """Whoever may push somewhere pushes that, and waits for an outage, or floods ECR until it
    throttles."""
    secret = f"blobs/{Digest.of(SECRET)}"
    assert (await proxy.client.ask("GET", f"/v2/app/{secret}")).body == SECRET
    await proxy.until(Kind.STORED)
    for blob in (b"{}", b"own"):
        await proxy.client.push_blob("other", blob)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _described(b"{}", "application/vnd.oci.image.config.v1+json"),
        "layers": [_described(b"own", LAYER)],
        **more,
    }
    content = json.dumps(document).encode()
    pushed = await proxy.client.push_manifest("other", "t", content, OCI_MANIFEST)
    assert pushed.status == 201  # ECR does not look for it
    standin.faults.add(replace(fault, server=""))
    for reference in ("t", pushed.digest):
        got = await proxy.client.ask("GET", f"/v2/other/manifests/{reference}")
        assert got.body == content
    for blob, status in ((b"own", 200), (SECRET, fault.status)):
        got = await proxy.client.ask("GET", f"/v2/other/blobs/{Digest.of(blob)}")
        assert got.status == status
