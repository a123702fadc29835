"""What is stored, and what is fetched to its end, is as the settings say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.sizes import Share
from proxy.standin import Fault, StandIn
from tests.caches import Cache
from tests.running import RunningProxy, running, settings_for

MIB = 1024 * 1024
BLOB = os.urandom(24 * MIB)
PATH = f"/v2/app/blobs/{Digest.of(BLOB)}"
HELD_AT = MIB


@pytest.fixture
def seeded(standin: StandIn) -> StandIn:
    cache = Cache.of(BLOB)
    for blob in cache.blobs:
        standin.state.put_blob("app", blob)
    standin.state.put_manifest("app", cache.image_manifest, OCI_MANIFEST)
    return standin


def _downloads(standin: StandIn) -> list[str]:
    """The Range of each download."""
    return [
        r.header("Range") or "" for r in standin.requests if (r.server, r.method) == ("s3", "GET")
    ]


async def _is_filling(proxy: RunningProxy) -> bool:
    metrics = await proxy.client.ask("GET", "/metrics")
    return b'ecr_cache_proxy_cache_bytes{state="reserved"} 0.0' not in metrics.body


async def _leave_in_the_middle(standin: StandIn, proxy: RunningProxy) -> None:
    """The only reader of a fill leaves when little has come; upstream then goes on."""
    held = standin.faults.add(Fault("s3", "GET", hold_at=HELD_AT))
    async with proxy.client.session.get(f"http://{proxy.address}{PATH}") as response:
        await response.content.readexactly(1000)
        await held.reached.wait()
        assert await _is_filling(proxy)
    held.release()


async def test_a_fill_that_nobody_wants_is_given_up_where_the_settings_say_so(
    seeded: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(seeded), cache_dir=tmp_path)
    settings = replace(settings, abandon_fills_below=len(BLOB))
    async with running(settings) as proxy:
        await _leave_in_the_middle(seeded, proxy)
        while await _is_filling(proxy):
            pass
        assert Kind.STORED not in proxy.kinds()
        assert (await proxy.client.ask("GET", PATH)).body == BLOB
    # What had come is not fetched again.
    first, second = _downloads(seeded)
    assert (first, second[:6]) == ("", "bytes=")


async def test_a_fill_that_nobody_wants_is_finished_by_default(
    seeded: StandIn, proxy: RunningProxy
) -> None:
    await _leave_in_the_middle(seeded, proxy)
    await proxy.until(Kind.STORED)
    assert (await proxy.client.ask("GET", PATH)).body == BLOB
    assert _downloads(seeded) == [""]


async def test_what_is_to_stay_free_is_not_filled(seeded: StandIn, tmp_path: Path) -> None:
    settings = settings_for(registry_of(seeded), cache_dir=tmp_path)
    async with running(replace(settings, min_free=Share(fraction=1.0))) as proxy:
        for _ in range(2):
            assert (await proxy.client.ask("GET", PATH)).body == BLOB
        assert Kind.DEGRADED in proxy.kinds()
        assert not {Kind.STORED, Kind.HIT} & set(proxy.kinds())
