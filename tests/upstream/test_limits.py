"""ECR's rates: what a request counts as, and that ECR is not asked faster than it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.oci import OCI_MANIFEST, RepositoryName, Tag
from proxy.standin import StandIn, StandInSettings
from proxy.standin.rates import Rate
from proxy.upstream import Registry
from proxy.upstream.errors import Kind
from proxy.upstream.limits import ECR_RATES, Limits, Operation, count_operations
from tests.caches import Cache
from tests.standins import config_of
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import QUICK

REPO = RepositoryName("team/app")
_MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("method", "kind", "length", "operations"),
    [
        ("GET", Kind.MANIFEST, 0, ["BatchGetImage"]),
        ("HEAD", Kind.MANIFEST, 0, ["BatchGetImage"]),
        ("PUT", Kind.MANIFEST, 500, ["PutImage"]),
        ("DELETE", Kind.MANIFEST, 0, []),
        ("GET", Kind.BLOB, 0, ["GetDownloadUrlForLayer"]),
        ("HEAD", Kind.BLOB, 0, ["BatchCheckLayerAvailability"]),
        ("POST", Kind.REPOSITORY, 0, ["InitiateLayerUpload"]),
        ("GET", Kind.REPOSITORY, 0, []),
        ("PATCH", Kind.UPLOAD, 1, ["UploadLayerPart"]),
        ("PATCH", Kind.UPLOAD, 10 * _MIB, ["UploadLayerPart"]),
        ("PATCH", Kind.UPLOAD, 10 * _MIB + 1, ["UploadLayerPart"] * 2),
        ("PUT", Kind.UPLOAD, 0, ["CompleteLayerUpload"]),
        ("PUT", Kind.UPLOAD, 25 * _MIB, ["UploadLayerPart"] * 3 + ["CompleteLayerUpload"]),
        ("DELETE", Kind.UPLOAD, 0, []),
        ("GET", Kind.REGISTRY, 0, []),
    ],
)
def test_what_a_request_counts_as(
    method: str, kind: Kind, length: int, operations: list[str]
) -> None:
    assert list(count_operations(method, kind, length)) == operations


def test_every_rate_of_ecr_is_known() -> None:
    assert {str(operation): rate for operation, rate in ECR_RATES.items()} == {
        "BatchGetImage": 2000,
        "GetDownloadUrlForLayer": 3000,
        "BatchCheckLayerAvailability": 1000,
        "InitiateLayerUpload": 100,
        "UploadLayerPart": 500,
        "CompleteLayerUpload": 100,
        "PutImage": 10,
    }


# Quick, with room for what a busy machine holds back and sends at once, in seconds.
_ROOM = 0.2
RATES: dict[str, float] = {
    Operation.PUT_IMAGE: 100.0,
    Operation.INITIATE_UPLOAD: 200.0,
    Operation.CHECK_LAYERS: 200.0,
}


@asynccontextmanager
async def paced(
    open_: OpenRegistry,
    rates: Mapping[str, float],
    *,
    ecrs: Mapping[str, float] = RATES,
    **changes: object,
) -> AsyncIterator[tuple[StandIn, Registry]]:
    async with StandIn(StandInSettings(repositories=(REPO,))) as standin:
        for operation, rate in ecrs.items():
            standin.state.rates.rates[operation] = Rate(rate, max(1.0, rate * _ROOM))
        config = config_of(standin, password=standin.password)
        config = replace(config, **changes)  # type: ignore[arg-type]
        yield standin, await open_(config, tuning=replace(QUICK, rates=rates))


async def push_manifests(standin: StandIn, registry: Registry, count: int = 40) -> None:
    cache = Cache.of(b"layer")
    for blob in cache.blobs:
        standin.state.put_blob(REPO, blob)
    await asyncio.gather(
        *(
            registry.put_manifest(REPO, Tag(f"t{number}"), cache.image_manifest, OCI_MANIFEST)
            for number in range(count)
        )
    )


async def start_uploads(standin: StandIn, registry: Registry) -> None:
    await asyncio.gather(*(registry.start_upload(REPO) for _ in range(80)))


async def check_blobs(standin: StandIn, registry: Registry) -> None:
    digest = standin.state.put_blob(REPO, b"here")
    await asyncio.gather(
        *(registry.head_blob(REPO, digest, patient=True) for _ in range(40)),
        *(registry.check_blobs(REPO, [digest]) for _ in range(40)),
    )


def throttled(standin: StandIn) -> int:
    # The JSON API says it with a 400.
    return sum(
        request.status == 429 or (request.server == "api" and request.status == 400)
        for request in standin.requests
    )


Work = Callable[[StandIn, Registry], object]


@pytest.mark.parametrize("work", [push_manifests, start_uploads, check_blobs])
async def test_ecr_never_has_to_throttle(open_: OpenRegistry, work: Work) -> None:
    async with paced(open_, RATES) as (standin, registry):
        await work(standin, registry)  # type: ignore[misc]
        assert throttled(standin) == 0


# So slow that a machine would have to be slower still to need no pace.
SLOW: dict[str, float] = {Operation.PUT_IMAGE: 5.0}


async def test_without_its_turn_a_push_would_be_throttled(open_: OpenRegistry) -> None:
    async with paced(open_, {}, ecrs=SLOW) as (standin, registry):
        await push_manifests(standin, registry, 4)
        assert throttled(standin) > 0


async def test_another_registry_is_not_held_to_the_rates_of_ecr(open_: OpenRegistry) -> None:
    async with paced(open_, SLOW, ecrs=SLOW, ecr=False, username="AWS") as (standin, registry):
        await push_manifests(standin, registry, 4)
        assert throttled(standin) > 0


async def test_who_gives_up_waiting_hinders_nobody() -> None:
    limits = Limits({Operation.PUT_IMAGE: 20.0})
    await limits.take([Operation.PUT_IMAGE])
    waiting = [asyncio.create_task(limits.take([Operation.PUT_IMAGE])) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[2].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        True,
        False,
        True,
        False,
    ]


async def test_turns_are_in_the_order_of_their_asking() -> None:
    limits = Limits({Operation.PUT_IMAGE: 1000.0})
    order: list[int] = []

    async def take(number: int) -> None:
        await limits.take([Operation.PUT_IMAGE])
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(take(number))
    assert order == sorted(order)
