"""ECR's JSON API, as far as `Registry` offers it: many blobs at once, and new repositories.

Shapes are botocore's service model of 2015-09-21. Tokens, which come from there too, are in `ecr`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from proxy.errors import BadGateway, GatewayTimeout, RegistryError, TooManyRequests
from proxy.oci import Digest, RepositoryName
from proxy.upstream.aws import Aws
from proxy.upstream.limits import Limits, Operation
from proxy.upstream.retry import Repetitions, retry_after
from proxy.upstream.values import BlobState, NewRepositories, Tuning

T = TypeVar("T")

# BatchedOperationLayerDigestList: at least one, and no more.
_MAX_DIGESTS: Final = 100
# What may be over in seconds. Credentials that are missing or refused are not.
_PASSING: Final = (BadGateway, GatewayTimeout, TooManyRequests)


class EcrApi:
    """One private ECR registry through its JSON API; raises `RegistryError` and nothing else."""

    def __init__(self, aws: Aws, *, account: str, limits: Limits, tuning: Tuning) -> None:
        """`account`: of the registry, empty where its name does not tell: then the caller's own."""
        self._aws = aws
        self._registry = {"registryId": account} if account else {}
        self._limits = limits
        self._tuning = tuning

    async def check_blobs(
        self, repository: RepositoryName, digests: Iterable[Digest], *, patient: bool
    ) -> Mapping[Digest, BlobState]:
        """What ECR decides of each digest, 100 in one call; what it does not decide is left out."""
        states: dict[Digest, BlobState] = {}
        wanted = iter(dict.fromkeys(digests))
        repetitions = Repetitions(self._tuning, patient=patient)
        while batch := list(itertools.islice(wanted, _MAX_DIGESTS)):
            request = {**self._registry, "repositoryName": repository, "layerDigests": batch}

            def work(client: Any, request: Mapping[str, Any] = request) -> Mapping[str, Any]:
                return client.batch_check_layer_availability(**request)  # type: ignore[no-any-return]

            answer = await self._ask(Operation.CHECK_LAYERS, work, repetitions)
            states |= read_states(answer, frozenset(batch))
        return states

    async def create_repository(self, repository: RepositoryName, new: NewRepositories) -> None:
        """Create it with these settings; that it is there already is as good."""
        request = {**self._registry, "repositoryName": repository, **_describe(new)}

        def work(client: Any) -> None:
            try:
                client.create_repository(**request)
            except client.exceptions.RepositoryAlreadyExistsException:
                return  # somebody else, or an attempt of ours whose answer was lost

        await self._ask(Operation.CREATE_REPOSITORY, work, Repetitions(self._tuning, patient=True))

    async def _ask(
        self, operation: Operation, work: Callable[[Any], T], repetitions: Repetitions
    ) -> T:
        """boto3 has repeated it once by itself; only patience goes on from there."""
        while True:
            try:
                await self._limits.take([operation])
                return await self._aws.ask("ecr", operation, work)
            except RegistryError as error:
                asked = retry_after(error.headers.get("Retry-After"))
                passing = isinstance(error, _PASSING) and repetitions.patient
                if passing and await repetitions.pause(asked):
                    continue
                raise


def read_states(answer: Mapping[str, Any], asked: frozenset[Digest]) -> dict[Digest, BlobState]:
    """What an answer of BatchCheckLayerAvailability decides, of what was asked."""
    states: dict[Digest, BlobState] = {}
    for layer in answer.get("layers") or ():
        digest, availability = layer.get("layerDigest"), layer.get("layerAvailability")
        size = layer.get("layerSize")
        if availability == "AVAILABLE":
            states[digest] = BlobState(exists=True, size=size if isinstance(size, int) else None)
        elif availability == "UNAVAILABLE":
            states[digest] = BlobState(exists=False)
        # ARCHIVED, or what is not known yet, says neither.
    for failure in answer.get("failures") or ():
        if failure.get("failureCode") == "MissingLayerDigest":
            states[failure.get("layerDigest")] = BlobState(exists=False)
    return {digest: state for digest, state in states.items() if digest in asked}


def _describe(new: NewRepositories) -> dict[str, Any]:
    """The parameters of CreateRepository for these settings."""
    request: dict[str, Any] = {
        "imageTagMutability": "MUTABLE",
        "imageScanningConfiguration": {"scanOnPush": new.scan_on_push},
    }
    if new.immutable_tags and new.mutable_tags:
        request["imageTagMutability"] = "IMMUTABLE_WITH_EXCLUSION"
        request["imageTagMutabilityExclusionFilters"] = [
            {"filterType": "WILDCARD", "filter": pattern} for pattern in new.mutable_tags
        ]
    elif new.immutable_tags:
        request["imageTagMutability"] = "IMMUTABLE"
    if new.kms_key is not None:
        request["encryptionConfiguration"] = {"encryptionType": "KMS", "kmsKey": new.kms_key}
    if new.tags:
        request["tags"] = [{"Key": key, "Value": value} for key, value in new.tags.items()]
    return request
