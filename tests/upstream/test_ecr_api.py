"""ECR's JSON API, against the strict stand-in: many blobs at once, and new repositories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from proxy.errors import (
    BadGateway,
    Denied,
    GatewayTimeout,
    NameUnknown,
    RegistryError,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from proxy.oci import Digest, RepositoryName
from proxy.standin import Denial, Fault, StandIn, StandInSettings
from proxy.upstream import BlobState, NewRepositories, Registry, RegistryConfig
from proxy.upstream.ecr_api import read_states
from tests.standins import config_of
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import FakeAws

REPO = RepositoryName("team/app")
NEW = RepositoryName("team/new")
HERE = Digest.of(b"here")
GONE = Digest.of(b"gone")

Start = Callable[..., Awaitable[tuple[StandIn, Registry]]]


@pytest.fixture
async def start(open_: OpenRegistry) -> AsyncIterator[Start]:
    standins: list[StandIn] = []

    async def begin(
        settings: StandInSettings | None = None, new: NewRepositories | None = None
    ) -> tuple[StandIn, Registry]:
        standin = StandIn(settings or StandInSettings(repositories=(REPO,)))
        await standin.start()
        standins.append(standin)
        standin.state.put_blob(REPO, b"here")
        config = config_of(standin, new_repositories=new)
        return standin, await open_(config)

    yield begin
    for standin in standins:
        await standin.close()


def asked(standin: StandIn) -> int:
    """How many requests the JSON API has had."""
    return sum(request.server == "api" for request in standin.requests)


async def test_it_is_said_which_blobs_are_there_and_how_large(start: Start) -> None:
    _, registry = await start()
    assert registry.can_batch
    assert await registry.check_blobs(REPO, [HERE, GONE]) == {
        HERE: BlobState(exists=True, size=4),
        GONE: BlobState(exists=False),
    }


async def test_a_hundred_digests_take_one_call(start: Start) -> None:
    standin, registry = await start()
    absent = [Digest.of(str(number).encode()) for number in range(249)]
    before = asked(standin)
    states = await registry.check_blobs(REPO, [*absent, HERE, *absent, HERE])
    assert asked(standin) == before + 3
    assert [digest for digest, state in states.items() if state.exists] == [HERE]
    assert len(states) == 250
    assert await registry.check_blobs(REPO, []) == {}
    assert asked(standin) == before + 3


def test_what_is_not_decided_is_left_out() -> None:
    blobs = {name: Digest.of(name.encode()) for name in ("archived", "new", "odd", "lost", "here")}
    answer = {
        "layers": [
            {"layerDigest": blobs["here"], "layerAvailability": "AVAILABLE"},
            {"layerDigest": blobs["archived"], "layerAvailability": "ARCHIVED"},
            {"layerDigest": blobs["new"], "layerAvailability": "OF_A_KIND_TO_COME"},
            {"layerDigest": GONE, "layerAvailability": "AVAILABLE", "layerSize": 1},
        ],
        "failures": [
            {"layerDigest": blobs["odd"], "failureCode": "InvalidLayerDigest"},
            {"layerDigest": blobs["lost"], "failureCode": "MissingLayerDigest"},
        ],
    }
    assert read_states(answer, frozenset(blobs.values())) == {
        blobs["here"]: BlobState(exists=True),
        blobs["lost"]: BlobState(exists=False),
    }


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (400, TooManyRequests, "Rate exceeded"),
        (403, Denied, r"Denied on demand .*needs ecr:BatchCheckLayerAvailability"),
        (429, TooManyRequests, "Rate exceeded"),
        (500, BadGateway, "BatchCheckLayerAvailability in .* failed: AWS answered 500"),
        (503, BadGateway, "AWS answered 503"),
    ],
)
async def test_a_refusal_has_the_class_of_the_registry_api_and_awss_words(
    start: Start, fault: int, kind: type[RegistryError], words: str
) -> None:
    standin, registry = await start()
    standin.faults.add(Fault(server="api", status=fault, times=None))
    with pytest.raises(kind, match=words):
        await registry.check_blobs(REPO, [HERE])
    assert kind(words).is_trouble == (kind is not Denied)


async def test_an_unknown_repository_is_told_in_ecrs_words(start: Start) -> None:
    standin, registry = await start()
    before = asked(standin)
    with pytest.raises(NameUnknown, match="with name 'team/new' does not exist"):
        await registry.check_blobs(NEW, [HERE])
    # It says nothing about the credentials: they are not read anew to ask again.
    assert asked(standin) == before + 1


async def test_a_denial_is_no_reason_to_look_for_other_credentials(start: Start) -> None:
    denial = Denial("ecr:BatchCheckLayerAvailability")
    standin, registry = await start(StandInSettings(repositories=(REPO,), denials=(denial,)))
    before = asked(standin)
    with pytest.raises(Denied, match="is not authorized to perform"):
        await registry.check_blobs(REPO, [HERE])
    assert asked(standin) == before + 1


async def test_patience_outlasts_trouble_of_the_api(start: Start) -> None:
    standin, registry = await start()
    # Each of our attempts is two of boto3's.
    standin.faults.add(Fault(server="api", status=503, times=3))
    states = await registry.check_blobs(REPO, [HERE], patient=True)
    assert states[HERE].exists


async def test_refused_credentials_are_not_waited_for(ecr: Registry, aws: FakeAws) -> None:
    aws.refusals.extend([(400, "UnrecognizedClientException", "invalid")] * 10)
    with pytest.raises(Unavailable, match="AWS does not know these credentials"):
        await ecr.check_blobs(REPO, [HERE], patient=True)
    assert len(aws.refusals) == 8  # read anew once


async def test_an_api_that_is_not_there_is_named(
    open_: OpenRegistry, start: Start, unused_tcp_port: int
) -> None:
    standin, _ = await start()
    config = RegistryConfig(
        name=standin.host,
        url=standin.url,
        ecr=True,
        api_url=f"http://127.0.0.1:{unused_tcp_port}",
        access_key_id="AKIA",
        secret_access_key="secret",
    )
    registry = await open_(config)
    with pytest.raises((BadGateway, GatewayTimeout), match=rf"127\.0\.0\.1:{unused_tcp_port}"):
        await registry.check_blobs(REPO, [HERE])


async def test_the_registry_of_another_account_is_asked_about_its_own_blobs(
    start: Start, open_: OpenRegistry
) -> None:
    other = "210987654321"
    standin, _ = await start(StandInSettings(repositories=(REPO,), further_accounts=(other,)))
    standin.state.put_blob(REPO, b"gone", other)
    registry = await open_(
        config_of(
            standin,
            name=f"{other}.dkr.ecr.eu-west-1.amazonaws.com",
            new_repositories=NewRepositories(),
        )
    )
    states = await registry.check_blobs(REPO, [HERE, GONE])
    assert (states[HERE].exists, states[GONE].exists) == (False, True)
    await registry.create_repository(NEW)
    assert standin.state.find_repository(NEW, other)


async def test_no_call_waits_for_another_one(start: Start) -> None:
    standin, registry = await start()
    held = standin.faults.add(Fault(server="api", hold=True))
    slow = asyncio.create_task(registry.check_blobs(REPO, [GONE]))
    await held.reached.wait()
    assert (await registry.check_blobs(REPO, [HERE]))[HERE].exists
    assert not slow.done()
    held.release()
    assert not (await slow)[GONE].exists


async def test_a_call_whose_asker_has_gone_hinders_nobody(start: Start) -> None:
    standin, registry = await start()
    held = standin.faults.add(Fault(server="api", hold=True))
    gone = asyncio.create_task(registry.check_blobs(REPO, [GONE]))
    await held.reached.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    held.release()
    assert (await registry.check_blobs(REPO, [HERE]))[HERE].exists


async def test_many_calls_share_one_session(start: Start) -> None:
    _, registry = await start()
    answers = await asyncio.gather(*(registry.check_blobs(REPO, [HERE]) for _ in range(40)))
    assert all(answer[HERE].exists for answer in answers)


async def test_other_registries_have_no_batch_and_no_creation(
    plain: Registry, open_: OpenRegistry, aws: FakeAws, keys: None
) -> None:
    public = await open_(
        RegistryConfig(name="public.ecr.aws", ecr=True, api_url=aws.url, url="http://127.0.0.1:1")
    )
    for registry in (plain, public):
        assert not registry.can_batch
        assert not registry.creates_repositories
        with pytest.raises(Unsupported):
            await registry.check_blobs(REPO, [HERE])
        with pytest.raises(Unsupported):
            await registry.create_repository(NEW)


KEY = "arn:aws:kms:eu-west-1:123456789012:key/1"


@pytest.mark.parametrize(
    ("new", "mutability", "exclusions", "encryption", "kms_key"),
    [
        (NewRepositories(), "MUTABLE", (), "AES256", None),
        (NewRepositories(immutable_tags=True), "IMMUTABLE", (), "AES256", None),
        (
            NewRepositories(immutable_tags=True, mutable_tags=("cache*", "*-cache")),
            "IMMUTABLE_WITH_EXCLUSION",
            ("cache*", "*-cache"),
            "AES256",
            None,
        ),
        (NewRepositories(mutable_tags=("cache*",)), "MUTABLE", (), "AES256", None),
        (NewRepositories(kms_key=KEY), "MUTABLE", (), "KMS", KEY),
    ],
)
async def test_a_repository_is_created_as_it_is_configured(
    start: Start,
    new: NewRepositories,
    mutability: str,
    exclusions: tuple[str, ...],
    encryption: str,
    kms_key: str | None,
) -> None:
    settings = replace(new, scan_on_push=True, tags={"team": "build", "cost": "1"})
    standin, registry = await start(new=settings)
    assert registry.creates_repositories
    await registry.create_repository(NEW)
    created = standin.state.repository(NEW)
    assert created.mutability == mutability
    assert created.exclusions == exclusions
    assert (created.encryption, created.kms_key) == (encryption, kms_key)
    assert created.scan_on_push
    assert created.resource_tags == {"team": "build", "cost": "1"}


async def test_a_repository_that_is_there_already_is_as_good(start: Start) -> None:
    standin, registry = await start(new=NewRepositories(immutable_tags=True))
    await registry.create_repository(REPO)
    assert standin.state.repository(REPO).mutability == "MUTABLE"
    await asyncio.gather(*(registry.create_repository(NEW) for _ in range(8)))
    assert standin.state.find_repository(NEW)


async def test_a_creation_waits_out_trouble(start: Start) -> None:
    standin, registry = await start(new=NewRepositories())
    standin.faults.add(Fault(server="api", status=500, times=5))
    await registry.create_repository(NEW)
    assert standin.state.find_repository(NEW)


async def test_a_creation_that_is_denied_names_the_permission(start: Start) -> None:
    denial = Denial("ecr:CreateRepository")
    _, registry = await start(
        StandInSettings(repositories=(REPO,), denials=(denial,)), new=NewRepositories()
    )
    with pytest.raises(Denied, match="needs ecr:CreateRepository"):
        await registry.create_repository(NEW)


async def test_nothing_is_created_without_being_configured(start: Start) -> None:
    standin, registry = await start()
    assert not registry.creates_repositories
    with pytest.raises(Unsupported, match="not configured to create repositories"):
        await registry.create_repository(NEW)
    assert standin.state.find_repository(NEW) is None
