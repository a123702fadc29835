"""boto3 against the stand-in, with only an endpoint URL changed: the stand-in's line 40.

botocore parses every answer by its own service model, and each is also checked for members that
the model does not have, which botocore would drop without a word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import Denial, Fault, Role, StandIn
from tests.standin.client import CONFIG, CONFIG_TYPE, REPOSITORY, Client
from tests.standin.conftest import Running

ROLE = "arn:aws:iam::123456789012:role/ci"


@contextmanager
def boto(standin: StandIn, service: str = "ecr", **changes: Any) -> Iterator[Any]:
    """A client that differs from one for AWS in its endpoint, and in trying once only."""
    arguments: dict[str, Any] = {
        "region_name": standin.settings.region,
        "endpoint_url": standin.url,
        "aws_access_key_id": standin.access_key_id,
        "aws_secret_access_key": standin.secret_access_key,
        "config": Config(retries={"total_max_attempts": 1}, proxies={}),
        **changes,
    }
    client = boto3.Session().client(service, **arguments)
    client.meta.events.register(f"before-parse.{service}.*", _check_members)
    try:
        yield client
    finally:
        client.close()


def _check_members(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] == 200 and response_dict["body"].startswith(b"{"):
        _check_shape(json.loads(response_dict["body"]), operation_model.output_shape)


def _check_shape(value: Any, shape: Any) -> None:
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members), shape.name
        for name, member in value.items():
            _check_shape(member, shape.members[name])
    elif shape.type_name == "list":
        for member in value:
            _check_shape(member, shape.member)
    else:
        kinds = {"string": str, "long": int, "boolean": bool, "timestamp": float}
        assert isinstance(value, kinds[shape.type_name]), shape.name
        assert value in getattr(shape, "enum", []) or not getattr(shape, "enum", [])


async def call(standin: StandIn, ask: Callable[[Any], Any], **changes: Any) -> Any:
    """Run `ask` with a client, in a thread."""

    def run() -> Any:
        with boto(standin, **changes) as client:
            return ask(client)

    return await asyncio.to_thread(run)


async def refused(standin: StandIn, ask: Callable[[Any], Any], **changes: Any) -> dict[str, str]:
    """The error that `ask` meets: `Code` and `Message`."""
    with pytest.raises(botocore.exceptions.ClientError) as error:
        await call(standin, ask, **changes)
    found: dict[str, str] = error.value.response["Error"]
    return found


async def test_get_authorization_token_gives_what_the_registry_takes(
    client: Client, standin: StandIn
) -> None:
    reply = await call(standin, lambda ecr: ecr.get_authorization_token())
    [data] = reply["authorizationData"]
    assert data["proxyEndpoint"] == f"https://{standin.host}"
    life = data["expiresAt"] - datetime.now(UTC)
    assert timedelta(hours=11, minutes=59) < life <= timedelta(hours=12)
    headers = {"Authorization": f"Basic {data['authorizationToken']}"}
    assert (await client.ask("GET", "/v2/", headers=headers)).status == 200


async def test_registry_ids_name_the_endpoints(running: Running) -> None:
    async with running(further_accounts=("210987654321",)) as client:
        reply = await call(
            client.standin,
            lambda ecr: ecr.get_authorization_token(registryIds=["123456789012", "210987654321"]),
        )
        endpoints = [data["proxyEndpoint"] for data in reply["authorizationData"]]
        assert endpoints == [
            "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "https://210987654321.dkr.ecr.eu-west-1.amazonaws.com",
        ]


async def test_batch_check_layer_availability(client: Client, standin: StandIn) -> None:
    digest = await client.push_blob(b"a layer")
    missing = Digest.of(b"missing")
    reply = await call(
        standin,
        lambda ecr: ecr.batch_check_layer_availability(
            repositoryName=REPOSITORY, layerDigests=[digest, missing, "no digest"]
        ),
    )
    [there, gone] = reply["layers"]
    assert (there["layerDigest"], there["layerAvailability"]) == (digest, "AVAILABLE")
    assert there["layerSize"] == 7
    assert (gone["layerDigest"], gone["layerAvailability"]) == (missing, "UNAVAILABLE")
    [failure] = reply["failures"]
    assert failure["failureCode"] == "InvalidLayerDigest"


async def test_batch_check_takes_100_digests_at_most(standin: StandIn) -> None:
    def ask(count: int) -> Callable[[Any], Any]:
        digests = [Digest.of(str(number).encode()) for number in range(count)]
        return lambda ecr: ecr.batch_check_layer_availability(
            repositoryName=REPOSITORY, layerDigests=digests
        )

    assert len((await call(standin, ask(100)))["layers"]) == 100
    assert (await refused(standin, ask(101)))["Code"] == "InvalidParameterException"


async def test_describe_repositories(running: Running) -> None:
    async with running(repositories=("a/one", "b/two", "c/three")) as client:
        standin = client.standin
        named = await call(
            standin, lambda ecr: ecr.describe_repositories(repositoryNames=["b/two"])
        )
        [repository] = named["repositories"]
        assert repository["repositoryUri"] == f"{standin.host}/b/two"
        assert repository["repositoryArn"] == (
            "arn:aws:ecr:eu-west-1:123456789012:repository/b/two"
        )
        assert repository["imageTagMutability"] == "MUTABLE"
        assert isinstance(repository["createdAt"], datetime)

        def paged(ecr: Any) -> list[str]:
            pages = ecr.get_paginator("describe_repositories").paginate(
                PaginationConfig={"PageSize": 2}
            )
            return [each["repositoryName"] for page in pages for each in page["repositories"]]

        assert await call(standin, paged) == ["a/one", "b/two", "c/three"]


async def test_create_repository_is_there_at_once(client: Client, standin: StandIn) -> None:
    reply = await call(
        standin,
        lambda ecr: ecr.create_repository(
            repositoryName="team/new",
            imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
            imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "cache*"}],
            encryptionConfiguration={"encryptionType": "KMS", "kmsKey": "alias/build"},
            imageScanningConfiguration={"scanOnPush": True},
            tags=[{"Key": "team", "Value": "build"}],
        ),
    )
    assert reply["repository"]["imageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
    assert reply["repository"]["encryptionConfiguration"] == {
        "encryptionType": "KMS",
        "kmsKey": "alias/build",
    }
    assert reply["repository"]["imageScanningConfiguration"] == {"scanOnPush": True}
    assert standin.state.repository("team/new").resource_tags == {"team": "build"}
    content = await client.push_image(b"layer", repository="team/new", tag="v1")
    again = await client.put_manifest(content, "v1", repository="team/new")
    assert again.error[:2] == (400, "TAG_INVALID")


def _describe_images(ecr: Any, more: dict[str, Any]) -> Any:
    return ecr.describe_images(repositoryName=REPOSITORY, **more)


async def test_describe_images(client: Client, standin: StandIn) -> None:
    content = await client.push_image(b"layer")
    await client.put_manifest(content, "two")
    for wanted in ([{"imageTag": "two"}], [{"imageDigest": Digest.of(content)}], None):
        more = {"imageIds": wanted} if wanted else {}
        reply = await call(standin, partial(_describe_images, more=more))
        [detail] = reply["imageDetails"]
        assert detail["imageDigest"] == Digest.of(content)
        assert sorted(detail["imageTags"]) == ["latest", "two"]
        assert detail["imageManifestMediaType"] == OCI_MANIFEST
        assert detail["artifactMediaType"] == CONFIG_TYPE
        assert detail["imageSizeInBytes"] == len(b"layer") + len(CONFIG)
        assert isinstance(detail["imagePushedAt"], datetime)


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        pytest.param(
            lambda ecr: ecr.describe_images(repositoryName="team/none"),
            "RepositoryNotFoundException",
            id="repository",
        ),
        pytest.param(
            lambda ecr: ecr.describe_images(
                repositoryName=REPOSITORY, imageIds=[{"imageTag": "none"}]
            ),
            "ImageNotFoundException",
            id="image",
        ),
        pytest.param(
            lambda ecr: ecr.create_repository(repositoryName=REPOSITORY),
            "RepositoryAlreadyExistsException",
            id="exists",
        ),
        pytest.param(
            lambda ecr: ecr.create_repository(repositoryName="UPPER"),
            "InvalidParameterException",
            id="name",
        ),
        pytest.param(
            lambda ecr: ecr.create_repository(repositoryName="a/b", imageTagMutability="FIXED"),
            "InvalidParameterException",
            id="mutability",
        ),
        pytest.param(
            lambda ecr: ecr.create_repository(
                repositoryName="a/b",
                imageTagMutability="IMMUTABLE",
                imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "c*"}],
            ),
            "InvalidParameterException",
            id="filters",
        ),
        pytest.param(
            lambda ecr: ecr.describe_repositories(maxResults=1001),
            "InvalidParameterException",
            id="results",
        ),
        pytest.param(
            lambda ecr: ecr.describe_repositories(nextToken="made up"),
            "InvalidParameterException",
            id="token",
        ),
    ],
)
async def test_errors_are_the_models_own_exceptions(
    standin: StandIn, ask: Callable[[Any], Any], code: str
) -> None:
    def caught(ecr: Any) -> Any:
        with pytest.raises(getattr(ecr.exceptions, code)) as error:
            ask(ecr)
        return error.value.response

    response = await call(standin, caught)
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Message"]


async def test_a_denied_action_is_access_denied_in_iams_words(running: Running) -> None:
    async with running(denials=(Denial("ecr:Describe*"),)) as client:
        error = await refused(
            client.standin, lambda ecr: ecr.describe_images(repositoryName=REPOSITORY)
        )
        assert error["Code"] == "AccessDeniedException"
        assert "is not authorized to perform: ecr:DescribeImages" in error["Message"]
        await call(client.standin, lambda ecr: ecr.get_authorization_token())


async def test_tokens_are_limited_to_a_burst_of_200(standin: StandIn) -> None:
    standin.state.clock.freeze()

    def many(ecr: Any) -> None:
        for _ in range(200):
            ecr.get_authorization_token()

    await call(standin, many)
    error = await refused(standin, lambda ecr: ecr.get_authorization_token())
    assert error == {"Code": "ThrottlingException", "Message": "Rate exceeded"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aws_access_key_id": "AKIANOBODY"}, "UnrecognizedClientException"),
        ({"aws_secret_access_key": "wrong"}, "InvalidSignatureException"),
        ({"aws_session_token": "made up"}, "UnrecognizedClientException"),
        ({"region_name": "us-west-2"}, "InvalidSignatureException"),
    ],
)
async def test_a_request_that_is_not_signed_right_is_refused(
    standin: StandIn, changes: dict[str, str], code: str
) -> None:
    error = await refused(standin, lambda ecr: ecr.get_authorization_token(), **changes)
    assert error["Code"] == code


async def test_an_unsigned_request_is_refused(client: Client) -> None:
    target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    answer = await client.ask(
        "POST", "/", headers={"X-Amz-Target": target}, body=b"{}", anonymous=True
    )
    assert (answer.status, answer.json["__type"]) == (400, "MissingAuthenticationTokenException")


async def test_an_operation_that_is_not_there_is_named(standin: StandIn) -> None:
    error = await refused(standin, lambda ecr: ecr.describe_registry())
    assert error["Code"] == "UnknownOperationException"
    assert "DescribeRegistry" in error["Message"]


async def test_an_outage_of_the_api_is_a_server_exception(standin: StandIn) -> None:
    standin.faults.add(Fault(server="api", status=500))
    error = await refused(standin, lambda ecr: ecr.get_authorization_token())
    assert error["Code"] == "ServerException"
    await call(standin, lambda ecr: ecr.get_authorization_token())
    assert [each.status for each in standin.requests if each.server == "api"] == [500, 200]


# Roles


async def test_an_assumed_role_has_a_token_of_its_own(running: Running) -> None:
    roles = (Role(ROLE, external_id="shared"),)
    async with running(roles=roles, denials=(Denial("ecr:PutImage", "*", "*/ci/*"),)) as client:
        standin = client.standin
        assumed = await call(
            standin,
            lambda sts: sts.assume_role(
                RoleArn=ROLE, RoleSessionName="build-7", ExternalId="shared"
            ),
            service="sts",
        )
        arn = "arn:aws:sts::123456789012:assumed-role/ci/build-7"
        assert assumed["AssumedRoleUser"]["Arn"] == arn
        keys = assumed["Credentials"]
        assert keys["Expiration"] > datetime.now(UTC)
        changes = {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        }
        identity = await call(
            standin, lambda sts: sts.get_caller_identity(), service="sts", **changes
        )
        assert (identity["Arn"], identity["Account"]) == (arn, "123456789012")
        reply = await call(standin, lambda ecr: ecr.get_authorization_token(), **changes)
        token = reply["authorizationData"][0]["authorizationToken"]
        answer = await client.ask(
            "PUT",
            f"/v2/{REPOSITORY}/manifests/latest",
            headers={"Authorization": f"Basic {token}"},
        )
        assert answer.error[1] == "DENIED"
        assert answer.error[2].startswith(f"User: {arn} is not authorized")


@pytest.mark.parametrize(
    ("role", "more"),
    [
        (ROLE, {}),
        (ROLE, {"ExternalId": "guessed"}),
        ("arn:aws:iam::123456789012:role/other", {"ExternalId": "shared"}),
    ],
)
async def test_a_role_is_refused_without_its_external_id(
    running: Running, role: str, more: dict[str, str]
) -> None:
    async with running(roles=(Role(ROLE, external_id="shared"),)) as client:
        error = await refused(
            client.standin,
            lambda sts: sts.assume_role(RoleArn=role, RoleSessionName="build", **more),
            service="sts",
        )
        assert error["Code"] == "AccessDenied"
        assert (
            f"is not authorized to perform: sts:AssumeRole on resource: {role}"
            in (error["Message"])
        )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aws_access_key_id": "AKIANOBODY"}, "InvalidClientTokenId"),
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
    ],
)
async def test_sts_checks_signatures_in_its_own_words(
    standin: StandIn, changes: dict[str, str], code: str
) -> None:
    error = await refused(standin, lambda sts: sts.get_caller_identity(), service="sts", **changes)
    assert error["Code"] == code
