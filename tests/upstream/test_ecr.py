"""AWS through boto3: the credential chain, roles, regions, failures in plain words."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.errors import RegistryError, Unavailable
from proxy.events import Events, Kind
from proxy.upstream import Registry, RegistryConfig, Tuning, open_registry
from proxy.upstream.aws import Aws
from proxy.upstream.ecr import private_source
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import Answer, FakeAws, FakeServer, Told

NAME = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.fixture
def config_file(no_aws: None, tmp_path: Path) -> Path:
    return tmp_path / "aws-config"


@pytest.fixture
def config(server: FakeServer, aws: FakeAws) -> RegistryConfig:
    server.tell("GET", "/v2/", Answer(200))
    return RegistryConfig(name=NAME, url=server.url, ecr=True, api_url=aws.url)


def write(path: Path, content: str) -> None:
    path.write_text(content)


def with_(config: RegistryConfig, **changes: object) -> RegistryConfig:
    return replace(config, **changes)  # type: ignore[arg-type]


async def test_without_credentials_the_sources_are_named_and_it_still_opens(
    open_: OpenRegistry, config: RegistryConfig, told: Told
) -> None:
    registry = await open_(config)
    problem = registry.credentials_problem()
    assert problem is not None
    for source in (
        f"no AWS credentials for {NAME}",
        "AWS_ACCESS_KEY_ID",
        "shared credentials file",
        "SSO",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "container's role",
        "instance's role",
        "without a restart",
    ):
        assert source in problem
    with pytest.raises(Unavailable) as raised:
        await registry.ping()
    assert raised.value.message == problem
    assert told.of(Kind.TROUBLE)


async def test_credentials_that_appear_work_without_a_restart(
    open_: OpenRegistry, config: RegistryConfig, aws: FakeAws, config_file: Path
) -> None:
    registry = await open_(config, tuning=Tuning(between=0.0, start_wait=30.0))
    assert registry.credentials_problem() is not None
    write(config_file, "[default]\naws_access_key_id=AKIALATE\naws_secret_access_key=x\n")
    await registry.ping()
    assert registry.credentials_problem() is None
    assert aws.keys == ["AKIALATE"]


async def test_profile_is_used(
    open_: OpenRegistry, config: RegistryConfig, aws: FakeAws, config_file: Path, keys: None
) -> None:
    write(config_file, "[profile ci]\naws_access_key_id=AKIAPROFILE\naws_secret_access_key=x\n")
    registry = await open_(with_(config, profile="ci"))
    assert registry.credentials_problem() is None
    assert aws.keys == ["AKIAPROFILE"]


async def test_missing_profile_is_named(
    open_: OpenRegistry, config: RegistryConfig, keys: None
) -> None:
    registry = await open_(with_(config, profile="nobody"))
    assert "nobody" in (registry.credentials_problem() or "")


async def test_profile_that_wants_a_code_is_refused_rather_than_asked_for(
    open_: OpenRegistry, config: RegistryConfig, config_file: Path
) -> None:
    write(
        config_file,
        "[profile base]\nmfa_serial=arn:aws:iam::1:mfa/me\nrole_arn=arn:aws:iam::1:role/b\n"
        "source_profile=base\n[profile ci]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=base\n",
    )
    registry = await open_(with_(config, profile="ci"))
    assert "the profile base has mfa_serial" in (registry.credentials_problem() or "")


async def test_keys_from_the_configuration_are_used(
    open_: OpenRegistry, config: RegistryConfig, aws: FakeAws
) -> None:
    registry = await open_(with_(config, access_key_id="AKIADEMO", secret_access_key="demo"))
    assert registry.credentials_problem() is None
    assert aws.keys == ["AKIADEMO"]


async def test_role_is_assumed_with_external_id_and_session_name(
    open_: OpenRegistry,
    config: RegistryConfig,
    aws: FakeAws,
    keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.url)
    registry = await open_(
        with_(
            config,
            role_arn="arn:aws:iam::123456789012:role/cache",
            external_id="ext-1",
            role_session_name="runner-7",
        )
    )
    assert registry.credentials_problem() is None
    assert aws.keys == ["ASIAROLE"]
    (asked,) = aws.roles
    assert asked["RoleArn"] == "arn:aws:iam::123456789012:role/cache"
    assert asked["ExternalId"] == "ext-1"
    assert asked["RoleSessionName"] == "runner-7"


async def test_credentials_of_a_role_renew_themselves(
    aws: FakeAws, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore asks again when less than a quarter of an hour is left."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.url)
    way = Aws(
        RegistryConfig(name="x", ecr=True, api_url=aws.url, role_arn="arn:aws:iam::1:role/r-long"),
        region="eu-west-1",
        proxies={},
    )
    fetch = private_source(way, "x")
    aws.role_lifetime = 300.0
    await fetch()
    asked = len(aws.roles)
    aws.role_lifetime = 3600.0
    await fetch()
    assert len(aws.roles) == asked + 1
    await fetch()
    assert len(aws.roles) == asked + 1
    await way.close(1.0)


async def test_replaced_credentials_are_read_anew(
    config: RegistryConfig, aws: FakeAws, config_file: Path
) -> None:
    way = Aws(config, region="eu-west-1", proxies={})
    fetch = private_source(way, NAME)
    write(config_file, "[default]\naws_access_key_id=AKIAOLD\naws_secret_access_key=x\n")
    await fetch()
    write(config_file, "[default]\naws_access_key_id=AKIANEW\naws_secret_access_key=x\n")
    aws.refusals.append((400, "UnrecognizedClientException", "The security token is invalid."))
    await fetch()
    assert aws.keys == ["AKIAOLD", "AKIAOLD", "AKIANEW"]
    await way.close(1.0)


@pytest.mark.parametrize(
    ("status", "code", "message", "words"),
    [
        (
            400,
            "AccessDeniedException",
            "User: arn:x is not authorized to perform: ecr:GetAuthorizationToken",
            "User: arn:x is not authorized.*needs ecr:GetAuthorizationToken on \\*",
        ),
        (400, "ExpiredTokenException", "The security token is expired", "have expired, renew them"),
        (400, "UnrecognizedClientException", "invalid", "AWS does not know these credentials"),
        (400, "InvalidSignatureException", "mismatch", "or the clock of this machine"),
        (400, "SomethingElse", "said so", "SomethingElse: said so"),
        (500, "ServerException", "oops", "AWS answered 500 ServerException: oops"),
    ],
)
async def test_refusal_of_aws_is_told_in_its_words_and_ours(
    config: RegistryConfig,
    aws: FakeAws,
    keys: None,
    status: int,
    code: str,
    message: str,
    words: str,
) -> None:
    aws.refusals.extend([(status, code, message)] * 10)
    way = Aws(config, region="eu-west-1", proxies={})
    with pytest.raises(RegistryError, match=f"no token for {NAME}.*{words}") as raised:
        await private_source(way, NAME)()
    assert raised.value.wire_status in {502, 503}
    await way.close(1.0)


async def test_unreachable_endpoint_is_named(
    config: RegistryConfig, keys: None, unused_tcp_port: int
) -> None:
    way = Aws(
        with_(config, api_url=f"http://127.0.0.1:{unused_tcp_port}"),
        region="eu-west-1",
        proxies={},
    )
    with pytest.raises(RegistryError, match=rf"127\.0\.0\.1:{unused_tcp_port}.*VPC endpoint"):
        await private_source(way, NAME)()
    await way.close(1.0)


async def test_expired_sso_session_says_what_to_run(
    config: RegistryConfig, config_file: Path
) -> None:
    write(
        config_file,
        "[profile sso]\nsso_session=s\nsso_account_id=1\nsso_role_name=r\n"
        "[sso-session s]\nsso_region=eu-west-1\nsso_start_url=https://x.example/start\n",
    )
    way = Aws(with_(config, profile="sso"), region="eu-west-1", proxies={})
    with pytest.raises(Unavailable, match="aws sso login"):
        await private_source(way, NAME)()
    await way.close(1.0)


async def test_lifetime_is_measured_by_the_clock_of_aws(
    config: RegistryConfig, aws: FakeAws, keys: None
) -> None:
    aws.skew = -86400.0
    way = Aws(config, region="eu-west-1", proxies={})
    token = await private_source(way, NAME)()
    assert token.lifetime == pytest.approx(43200.0, abs=5.0)
    await way.close(1.0)


async def test_aws_that_hangs_blocks_neither_loop_nor_start_nor_close(
    config: RegistryConfig, aws: FakeAws, keys: None, events: Events
) -> None:
    aws.gate = asyncio.Event()
    started = time.monotonic()
    registry = await open_registry(
        config, proxies={}, events=events, tuning=Tuning(start_wait=0.05, close_wait=0.05)
    )
    assert "not answered" in (registry.credentials_problem() or "")
    await registry.close()
    assert time.monotonic() - started < 5.0
    aws.gate.set()


async def test_several_registries_may_have_several_principals(
    open_: OpenRegistry, config: RegistryConfig, aws: FakeAws, config_file: Path
) -> None:
    write(
        config_file,
        "[profile a]\naws_access_key_id=AKIAA\naws_secret_access_key=x\n"
        "[profile b]\naws_access_key_id=AKIAB\naws_secret_access_key=x\n",
    )
    registries: list[Registry] = [
        await open_(with_(config, profile=profile)) for profile in ("a", "b")
    ]
    assert [registry.credentials_problem() for registry in registries] == [None, None]
    assert aws.keys == ["AKIAA", "AKIAB"]


@pytest.mark.parametrize(
    ("region", "fips", "dualstack", "endpoint"),
    [
        ("eu-west-1", False, False, "https://api.ecr.eu-west-1.amazonaws.com"),
        ("cn-north-1", False, False, "https://api.ecr.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", True, False, "https://ecr-fips.us-gov-west-1.amazonaws.com"),
        ("us-east-1", True, False, "https://ecr-fips.us-east-1.amazonaws.com"),
        ("us-west-2", False, True, "https://ecr.us-west-2.api.aws"),
        (None, False, False, "https://api.ecr.us-east-1.amazonaws.com"),
    ],
)
async def test_endpoint_follows_from_the_host(
    keys: None, region: str | None, fips: bool, dualstack: bool, endpoint: str
) -> None:
    way = Aws(
        RegistryConfig(name="x", ecr=True),
        region=region,
        fips=fips,
        dualstack=dualstack,
        proxies={},
    )
    assert await way.call("ecr", "nothing", lambda client: client.meta.endpoint_url) == endpoint
    await way.close(1.0)


async def test_forward_proxy_is_used_for_aws_unless_excepted(keys: None) -> None:
    def proxies_of(client: object) -> object:
        return client._endpoint.http_session._proxy_config._proxies  # type: ignore[attr-defined]

    for no, expected in (("", {"https": "http://p:3128"}), ("amazonaws.com", {})):
        way = Aws(
            RegistryConfig(name="x", ecr=True),
            region="eu-west-1",
            proxies={"https": "http://p:3128", "no": no},
        )
        assert await way.call("ecr", "nothing", proxies_of) == expected
        await way.close(1.0)
