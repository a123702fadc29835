"""The client and the checks that the tests of exports rest on: they see what they are to see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from tests.caches import Cache
from tests.commits import assert_all_is_committed
from tests.exporter import Export, Exporter
from tests.running import straight_to
from tests.traces import Replay

CACHE = Cache.of(b"one layer", b"another")


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    settings = StandInSettings(repositories=("app",), rate_limits=False, check_layers=False)
    async with StandIn(settings) as standin:
        yield standin


async def export(standin: StandIn, cache: Cache = CACHE) -> Export:
    login = standin.username, standin.password
    async with Exporter(standin.url, login=login, pauses=(0.0, 0.0)) as exporter:
        return await exporter.export("app", "cache", cache, image_manifest=True)


def _steps(requests: list[tuple[str, str]]) -> list[str]:
    """Each request by its method and what it is about."""
    kind = re.compile(r"/(manifests|blobs/sha256|blobs/uploads)")
    found = ((method, kind.search(path)) for method, path in requests)
    return [f"{method} {match[1]}" for method, match in found if match]


async def test_the_exporter_asks_what_buildkit_was_recorded_to_ask(standin: StandIn) -> None:
    recorded = Replay().read("v0.11.6-export-oci")
    steps = _steps([(each.method, each.path) for each in recorded])
    layers = Counter(steps)["POST blobs/uploads"] - 1
    cache = Cache.of(*(b"%d" % number for number in range(layers)))
    assert _steps([(e.method, e.path) for e in (await export(standin, cache)).exchanges]) == steps
    again = Replay().read("v0.11.6-reexport-oci")
    steps = _steps([(each.method, each.path) for each in again])
    assert _steps([(e.method, e.path) for e in (await export(standin, cache)).exchanges]) == steps


@pytest.mark.parametrize(
    ("fault", "fails"),
    [
        pytest.param(Fault(method="PUT", path="uploads", status=503), None, id="layer, 503"),
        pytest.param(Fault(method="PUT", path="uploads", reset=True), None, id="layer, reset"),
        pytest.param(Fault(method="PUT", path="uploads", status=503, times=3), 503, id="at length"),
        pytest.param(Fault(method="PUT", path="uploads", status=400), 400, id="layer, refused"),
        pytest.param(Fault(method="PUT", path="uploads", skip=2, status=503), 503, id="config"),
        pytest.param(Fault(method="PUT", path="manifests", status=503), 503, id="manifest"),
        pytest.param(Fault(method="PUT", path="manifests", reset=True), 0, id="manifest, reset"),
        pytest.param(Fault(method="HEAD", path="blobs", status=429), 429, id="throttled"),
    ],
)
async def test_the_exporter_tries_layers_again_and_nothing_else(
    standin: StandIn, fault: Fault, fails: int | None
) -> None:
    standin.faults.add(fault)
    failure = (await export(standin)).failure
    assert (failure and failure.status) == fails


async def test_the_exporter_tells_how_long_it_waited(standin: StandIn) -> None:
    standin.faults.add(Fault(method="PUT", path="manifests", latency=0.2))
    done = await export(standin)
    assert done.longest_wait == done.longest_manifest_wait >= 0.2
    assert done.uploaded == {Digest.of(blob) for blob in CACHE.blobs}


def _lose_a_blob(standin: StandIn) -> None:
    standin.state.delete_blob("app", Digest.of(CACHE.layers[0]))


def _spoil_a_blob(standin: StandIn) -> None:
    standin.state.files.path_of(Digest.of(CACHE.layers[0])).write_bytes(b"other bytes")


@pytest.mark.parametrize("harm", [_lose_a_blob, _spoil_a_blob])
async def test_harm_to_what_is_committed_is_seen(
    standin: StandIn, harm: Callable[[StandIn], None]
) -> None:
    await export(standin)
    assert assert_all_is_committed(standin) == 1
    harm(standin)
    with pytest.raises((AssertionError, FileNotFoundError)):
        assert_all_is_committed(standin)


@pytest.mark.parametrize("refused", [False, True])
async def test_a_manifest_that_came_before_a_blob_is_seen(standin: StandIn, refused: bool) -> None:
    """Also one that came to nothing, and again when all was there."""
    async with straight_to(standin) as client:
        if refused:
            standin.faults.add(Fault(method="PUT", path="manifests", status=503))
        await client.push_manifest("app", "cache", CACHE.image_manifest, OCI_MANIFEST)
        await CACHE.push_blobs(client, "app")
        await client.push_manifest("app", "cache", CACHE.image_manifest, OCI_MANIFEST)
    with pytest.raises(AssertionError, match="before"):
        assert_all_is_committed(standin)
