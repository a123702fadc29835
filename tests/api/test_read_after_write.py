"""What was just pushed through the proxy is there, however far behind ECR's readers are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.cache import RecordStore
from proxy.demo import registry_of
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.caches import ALL_TYPES, OLD, Cache, only
from tests.clocks import Clock
from tests.running import RunningProxy, running, settings_for, straight_to

CACHE = Cache.of(b"a layer", b"another")
STORED = Digest.of(CACHE.image_manifest)
TAG = "/v2/app/manifests/t"
LAG_SECONDS = 60.0

FORMS = [(OCI_INDEX, CACHE.index), (OCI_MANIFEST, CACHE.image_manifest)]


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path, clock: Clock) -> AsyncIterator[RunningProxy]:
    timing = Timing(clock=clock, now=clock)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(settings, timing=timing) as proxy:
        await CACHE.push_blobs(proxy.client, "app")
        yield proxy


async def _push(
    proxy: RunningProxy, reference: str = "t", form: tuple[str, bytes] = FORMS[0]
) -> None:
    pushed = await proxy.client.push_manifest("app", reference, form[1], form[0])
    assert pushed.status == 201, pushed.body


@pytest.mark.parametrize("form", FORMS, ids=["legacy", "stored as it is"])
async def test_a_digest_just_pushed_is_there_while_ecr_denies_it(
    standin: StandIn, proxy: RunningProxy, form: tuple[str, bytes]
) -> None:
    standin.state.lag_seconds = 1e6
    await _push(proxy, form=form)
    for headers in ({}, only(form[0])):
        for method in ("HEAD", "GET"):
            path = f"/v2/app/manifests/{Digest.of(form[1])}"
            got = await proxy.client.ask(method, path, headers=headers)
            assert got.status == 200, (method, headers)


async def test_a_digest_just_pushed_is_there_though_its_record_found_no_room(
    standin: StandIn, proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = RecordStore.put

    async def full(store: RecordStore, *record: str, **content: bytes) -> None:
        if record[0] == "manifest":
            return  # what can be had again is left unkept, and nobody hears of it
        await put(store, *record, **content)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordStore, "put", full)
    standin.state.lag_seconds = 1e6
    await _push(proxy)
    for digest in (Digest.of(CACHE.index), STORED):
        got = await proxy.client.ask("GET", f"/v2/app/manifests/{digest}")
        assert got.status == 200
        assert digest.matches(got.body)


@pytest.mark.parametrize("headers", [ALL_TYPES, OLD | ALL_TYPES, only(OCI_INDEX)])
async def test_a_tag_just_pushed_is_there_while_ecr_denies_it(
    standin: StandIn, proxy: RunningProxy, clock: Clock, headers: dict[str, str]
) -> None:
    standin.state.lag_seconds = 1e6
    await _push(proxy)
    clock.now += LAG_SECONDS - 1
    for method in ("HEAD", "GET"):
        got = await proxy.client.ask(method, TAG, headers=headers)
        assert got.status == 200
        assert "Warning" not in got.headers
    clock.now += 1
    for method in ("HEAD", "GET"):
        assert (await proxy.client.ask(method, TAG, headers=headers)).status == 404


async def test_a_tag_is_what_ecr_says_as_soon_as_it_says_anything(
    standin: StandIn, proxy: RunningProxy
) -> None:
    await _push(proxy)
    other = Cache.of(b"of somebody else")
    async with straight_to(standin) as client:
        await other.push_blobs(client, "app")
        await client.push_manifest("app", "t", other.image_manifest, OCI_MANIFEST)
    assert (await proxy.client.ask("GET", TAG)).body == other.image_manifest


@pytest.mark.parametrize("reference", ["t", STORED, Digest.of(CACHE.index)])
async def test_what_is_deleted_through_the_proxy_is_gone_at_once(
    proxy: RunningProxy, reference: str
) -> None:
    await _push(proxy)
    path = f"/v2/app/manifests/{reference}"
    assert (await proxy.client.ask("DELETE", path)).status == 202
    for method in ("HEAD", "GET"):
        assert (await proxy.client.ask(method, TAG)).status == 404
