"""Who may have what is on disk while upstream cannot be asked: whoever was let in not long ago."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app import Timing
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.services.proofs import PROOF_SECONDS
from proxy.standin import Fault, StandIn
from proxy.upstream import Tuning
from tests.caches import Cache
from tests.clocks import Clock
from tests.running import RunningProxy, running, settings_for

BLOB = os.urandom(100_000)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/app/blobs/{DIGEST}"
STALE_SECONDS = 600.0
# The end of an outage is found soon.
TUNING = Tuning(first_probe=0.01, last_probe=0.05)

# A wait that is asked for beyond all patience: the proxy fails at once.
OUTAGE = Fault(server="registry", path="/blobs/", status=503, headers={"Retry-After": "99"})
OUTAGES = {
    "unavailable": OUTAGE,
    "internal error": replace(OUTAGE, status=500),
    "throttled": replace(OUTAGE, status=429),
    "reset": Fault(server="registry", path="/blobs/", reset=True),
}


@pytest.fixture
async def proxy(standin: StandIn, tmp_path: Path, clock: Clock) -> AsyncIterator[RunningProxy]:
    """With the blob on disk, read from `app` a moment ago."""
    cache = Cache.of(BLOB)
    for repository in ("app", "other"):
        for blob in cache.blobs:
            standin.state.put_blob(repository, blob)
        standin.state.put_manifest(repository, cache.image_manifest, OCI_MANIFEST)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    settings = replace(settings, stale_if_error=STALE_SECONDS)
    async with running(settings, timing=Timing(clock=clock, tuning=TUNING)) as proxy:
        assert await _get(proxy) == 200
        await proxy.until(Kind.STORED)
        yield proxy


async def _get(proxy: RunningProxy, repository: str = "app") -> int:
    got = await proxy.client.ask("GET", f"/v2/{repository}/blobs/{DIGEST}")
    assert got.status != 200 or got.body == BLOB
    return got.status


def _break(standin: StandIn, fault: Fault = OUTAGE) -> None:
    standin.faults.add(replace(fault, times=None))


async def _shut_down(standin: StandIn, proxy: RunningProxy) -> None:
    """Let the registry answer nothing any more, and the proxy find that out."""
    _break(standin, replace(OUTAGE, path=""))
    for _ in range(Tuning().failures):
        await proxy.client.ask("HEAD", "/v2/app/manifests/none")
    while not any(e.kind is Kind.TROUBLE and "until it answers" in e.detail for e in proxy.told):
        await proxy.client.ask("HEAD", "/v2/app/manifests/none")


def _asked(standin: StandIn) -> int:
    return sum(r.server == "registry" and f"/blobs/{DIGEST}" in r.path for r in standin.requests)


def _troubles(proxy: RunningProxy) -> int:
    return sum(e.kind is Kind.TROUBLE and "older answers" in e.detail for e in proxy.told)


async def test_a_proof_is_asked_for_again_when_its_time_is_over(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    asked = _asked(standin)
    clock.now += PROOF_SECONDS - 1
    assert await _get(proxy) == 200
    assert _asked(standin) == asked
    clock.now += 1
    for _ in range(2):
        assert await _get(proxy) == 200
        assert _asked(standin) == asked + 1


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_in_an_outage_an_older_proof_will_do(
    standin: StandIn, proxy: RunningProxy, clock: Clock, fault: Fault
) -> None:
    _break(standin, fault)
    clock.now += PROOF_SECONDS + STALE_SECONDS - 1
    assert await _get(proxy) == 200
    assert _troubles(proxy) == 1


async def test_in_an_outage_no_proof_lasts_beyond_the_stale_window(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    _break(standin)
    clock.now += PROOF_SECONDS + STALE_SECONDS
    assert await _get(proxy) == 503


async def test_in_an_outage_nobody_is_let_in_under_another_repository(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    _break(standin)
    for seconds in (0, PROOF_SECONDS + 1):
        clock.now += seconds
        assert await _get(proxy, "other") == 503
        assert await _get(proxy) == 200


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_answer_of_upstream_ends_a_proof_for_good(
    standin: StandIn, proxy: RunningProxy, clock: Clock, status: int
) -> None:
    clock.now += PROOF_SECONDS
    denial = standin.faults.add(replace(OUTAGE, status=status, headers={}, times=None))
    # Refused credentials are the proxy's own, so to its client a fault of the proxy.
    assert await _get(proxy) == (503 if status == 401 else status)
    standin.faults.remove(denial)
    _break(standin)
    assert await _get(proxy) == 503


async def test_a_deleted_blob_is_not_served_by_an_older_proof(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    clock.now += PROOF_SECONDS
    standin.state.delete_blob("app", DIGEST)
    assert await _get(proxy) == 404
    _break(standin)
    assert await _get(proxy) == 503


async def test_in_an_outage_nobody_waits_for_upstream(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    await _shut_down(standin, proxy)
    clock.now += PROOF_SECONDS
    asked = _asked(standin)
    for _ in range(3):
        assert await _get(proxy) == 200
    assert _troubles(proxy) == 1
    clock.now += 60
    assert await _get(proxy) == 200
    assert _troubles(proxy) == 2
    assert _asked(standin) == asked


async def test_in_an_outage_what_is_not_on_disk_is_refused_with_when_to_come_again(
    standin: StandIn, proxy: RunningProxy
) -> None:
    await _shut_down(standin, proxy)
    for path in ("manifests/none", f"blobs/{Digest.of(b'none')}"):
        got = await proxy.client.ask("GET", f"/v2/app/{path}")
        assert got.status == 503
        assert int(got.headers["Retry-After"]) >= 1
        assert b"does not answer" in got.body


async def test_the_end_of_an_outage_is_found_without_a_client(
    standin: StandIn, proxy: RunningProxy
) -> None:
    await _shut_down(standin, proxy)
    standin.faults.clear()
    await proxy.until(Kind.RECOVERED)
    assert await _get(proxy, "other") == 200


async def test_after_an_outage_upstream_is_asked_as_before(
    standin: StandIn, proxy: RunningProxy, clock: Clock
) -> None:
    _break(standin)
    clock.now += PROOF_SECONDS
    assert await _get(proxy) == 200
    standin.faults.clear()
    clock.now += 5
    assert await _get(proxy) == 200
    _break(standin)
    clock.now += PROOF_SECONDS + STALE_SECONDS - 1
    assert await _get(proxy) == 200
    clock.now += 1
    assert await _get(proxy) == 503
