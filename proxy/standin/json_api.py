"""The JSON API, so that boto3 talks to the stand-in with only an endpoint URL changed.

ECR's five operations that matter here and ECR Public's token; STS, which shares the address and
speaks the query protocol, is in `sts_api`. Shapes are botocore's service model of 2015-09-21.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

from proxy.oci import Digest
from proxy.standin import sts_api
from proxy.standin.exchange import Call
from proxy.standin.faults import Fault
from proxy.standin.principals import AccessKey
from proxy.standin.rates import Operation
from proxy.standin.refusals import Kind, Refusal, image_unknown, parameter_text
from proxy.standin.replies import Reply
from proxy.standin.repository import Image, Mutability, Repository
from proxy.standin.sigv4 import SignedRequest, authenticate
from proxy.standin.state import State

_PRIVATE: Final = "AmazonEC2ContainerRegistry_V20150921."
_PUBLIC: Final = "SpencerFrontendService."
_PUBLIC_REGION: Final = "us-east-1"
_MAX_BODY: Final = 1024 * 1024
_MAX_LAYERS: Final = 100  # BatchedOperationLayerDigestList
_MAX_RESULTS: Final = 1000


class JsonApi:
    """Answers `POST /`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._operations: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
            Operation.CHECK_LAYERS: self._check_layers,
            Operation.DESCRIBE_REPOSITORIES: self._describe_repositories,
            Operation.CREATE_REPOSITORY: self._create_repository,
            Operation.DESCRIBE_IMAGES: self._describe_images,
        }

    async def answer(self, call: Call) -> Reply:
        body = await call.read(_MAX_BODY)
        signed = SignedRequest(call.method, call.raw_path, call.raw_query, call.headers, body)
        target = call.headers.get("X-Amz-Target")
        if target is None:
            return sts_api.answer(self._state, signed)
        try:
            return _reply(200, self._answer(call, signed, target))
        except Refusal as refusal:
            # The JSON protocol's client errors are all 400; what they are is in `__type`.
            error = {"__type": refusal.kind.exception, "message": refusal.message}
            return _reply(400, error, headers=refusal.headers)

    def fault_reply(self, call: Call, fault: Fault) -> Reply:
        """An outage in the JSON protocol's style."""
        status = fault.status or 500
        if fault.body is not None:
            return Reply(status, dict(fault.headers), fault.body.encode())
        name, message = {
            400: ("ThrottlingException", "Rate exceeded"),
            403: ("AccessDeniedException", "Denied on demand"),
            429: ("ThrottlingException", "Rate exceeded"),
        }.get(status, ("ServerException", "Internal server error"))
        return _reply(status, {"__type": name, "message": message}, headers=dict(fault.headers))

    def _answer(self, call: Call, signed: SignedRequest, target: str) -> dict[str, Any]:
        is_public = target.startswith(_PUBLIC)
        key = authenticate(
            signed,
            self._state.principals,
            service="ecr-public" if is_public else "ecr",
            region=_PUBLIC_REGION if is_public else self._state.settings.region,
        )
        operation = target.removeprefix(_PUBLIC if is_public else _PRIVATE)
        request = _object(signed.body)
        if operation == Operation.GET_TOKEN:
            self._enter(key, Operation.GET_TOKEN, call.account, None)
            return self._token(key, request, is_public=is_public, account=call.account)
        answerer = None if is_public else self._operations.get(operation)
        if answerer is None:
            raise Refusal(Kind.UNSUPPORTED, f"Operation {operation} is not there")
        account = request.get("registryId") or call.account
        names = request.get("repositoryNames") or [request.get("repositoryName")]
        if operation != Operation.DESCRIBE_REPOSITORIES and names == [None]:
            raise Refusal(
                Kind.PARAMETER, parameter_text("repositoryName", "Member must not be null")
            )
        for name in names:
            self._enter(key, Operation(operation), account, name)
        return answerer(account, request)

    def _enter(
        self, key: AccessKey, operation: Operation, account: str, repository: str | None
    ) -> None:
        self._state.policy.check(key.arn, operation, account=account, repository=repository)
        self._state.rates.take(account, operation)

    def _token(
        self, key: AccessKey, request: dict[str, Any], *, is_public: bool, account: str
    ) -> dict[str, Any]:
        token = self._state.tokens.issue(key.arn)
        data: dict[str, Any] = {
            "authorizationToken": token.authorization,
            "expiresAt": token.expires_at,
        }
        if is_public:
            return {"authorizationData": data}
        hosts = request.get("registryIds") or [account]  # deprecated: one token reaches them all
        return {
            "authorizationData": [
                {**data, "proxyEndpoint": f"https://{self._state.host_of(host)}"} for host in hosts
            ]
        }

    def _check_layers(self, account: str, request: dict[str, Any]) -> dict[str, Any]:
        repository = self._state.repository(request["repositoryName"], account)
        digests = request.get("layerDigests") or []
        if not 1 <= len(digests) <= _MAX_LAYERS:
            raise Refusal(
                Kind.PARAMETER,
                parameter_text(
                    "layerDigests",
                    f"Member must have length between 1 and {_MAX_LAYERS}, inclusive",
                ),
            )
        layers: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for text in digests:
            try:
                digest = Digest.parse(str(text))
            except ValueError:
                failures.append(
                    {
                        "layerDigest": text,
                        "failureCode": "InvalidLayerDigest",
                        "failureReason": f"Invalid layer digest '{text}'",
                    }
                )
                continue
            blob = repository.blobs.get(digest)
            if blob is None or blob.lag.hides(self._state.clock):
                layers.append({"layerDigest": digest, "layerAvailability": "UNAVAILABLE"})
            else:
                layers.append(
                    {
                        "layerDigest": digest,
                        "layerAvailability": "AVAILABLE",
                        "layerSize": blob.size,
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    }
                )
        return {"layers": layers, "failures": failures}

    def _describe_repositories(self, account: str, request: dict[str, Any]) -> dict[str, Any]:
        names = request.get("repositoryNames")
        if names:
            held = [self._state.repository(name, account) for name in names]
            return {"repositories": [self._described(each) for each in held]}
        held = [
            each
            for (owner, _), each in sorted(self._state.repositories.items())
            if owner == account
        ]
        page, extra = _page(request, held)
        return {"repositories": [self._described(each) for each in page], **extra}

    def _create_repository(self, account: str, request: dict[str, Any]) -> dict[str, Any]:
        mutability = request.get("imageTagMutability")
        filters = request.get("imageTagMutabilityExclusionFilters")
        if mutability not in (None, *Mutability):
            text = f"Member must satisfy enum value set: [{', '.join(Mutability)}]"
            raise Refusal(Kind.PARAMETER, parameter_text("imageTagMutability", text))
        # Filters go with the two kinds that have exclusions, and those kinds with filters.
        if bool(filters) != (mutability is not None and mutability.endswith("_WITH_EXCLUSION")):
            text = "Member must be given with a tag mutability with exclusion, and only then"
            raise Refusal(
                Kind.PARAMETER, parameter_text("imageTagMutabilityExclusionFilters", text)
            )
        encryption = request.get("encryptionConfiguration") or {}
        scanning = request.get("imageScanningConfiguration") or {}
        repository = self._state.create_repository(
            request["repositoryName"],
            account,
            mutability=Mutability(mutability) if mutability else None,
            exclusions=tuple(each["filter"] for each in filters) if filters else None,
            encryption=encryption.get("encryptionType", "AES256"),
            kms_key=encryption.get("kmsKey"),
            scan_on_push=bool(scanning.get("scanOnPush")),
            resource_tags={each["Key"]: each["Value"] for each in request.get("tags") or ()},
        )
        return {"repository": self._described(repository)}

    def _describe_images(self, account: str, request: dict[str, Any]) -> dict[str, Any]:
        repository = self._state.repository(request["repositoryName"], account)
        wanted = request.get("imageIds")
        if not wanted:
            page, extra = _page(request, list(repository.images.values()))
            details = [_image_detail(repository, image) for image in page]
            return {"imageDetails": details, **extra}
        details = []
        for each in wanted:
            image = repository.find_image(each.get("imageDigest") or each.get("imageTag"))
            if image is None:
                raise image_unknown()
            details.append(_image_detail(repository, image))
        return {"imageDetails": details}

    def _described(self, repository: Repository) -> dict[str, Any]:
        account, name = repository.account, repository.name
        described: dict[str, Any] = {
            "repositoryArn": self._state.policy.resource(account, name),
            "registryId": account,
            "repositoryName": name,
            "repositoryUri": f"{self._state.host_of(account)}/{name}",
            "createdAt": repository.created_at,
            "imageTagMutability": repository.mutability,
            "imageScanningConfiguration": {"scanOnPush": repository.scan_on_push},
            "encryptionConfiguration": {"encryptionType": repository.encryption},
        }
        if repository.kms_key is not None:
            described["encryptionConfiguration"]["kmsKey"] = repository.kms_key
        if repository.exclusions:
            described["imageTagMutabilityExclusionFilters"] = [
                {"filterType": "WILDCARD", "filter": each} for each in repository.exclusions
            ]
        return described


def _image_detail(repository: Repository, image: Image) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "registryId": repository.account,
        "repositoryName": repository.name,
        "imageDigest": image.digest,
        "imageSizeInBytes": image.facts.size,
        "imagePushedAt": image.pushed_at,
        "imageManifestMediaType": image.media_type,
        "imageStatus": "ARCHIVED" if image.archived else "ACTIVE",
    }
    if tags := repository.tags_of(image.digest):
        detail["imageTags"] = tags
    if image.facts.artifact_type:
        detail["artifactMediaType"] = image.facts.artifact_type
    if image.facts.subject:
        detail["subjectManifestDigest"] = image.facts.subject
    return detail


def _page(request: dict[str, Any], values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    size = request.get("maxResults") or 100
    start = request.get("nextToken") or "0"
    if not 1 <= size <= _MAX_RESULTS:
        text = f"Member must have value less than or equal to {_MAX_RESULTS}"
        raise Refusal(Kind.PARAMETER, parameter_text("maxResults", text))
    if not start.isdecimal() or len(start) > 9:
        raise Refusal(Kind.PARAMETER, parameter_text("NextToken", "Invalid next token provided"))
    end = int(start) + size
    return values[int(start) : end], {"nextToken": str(end)} if end < len(values) else {}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal(Kind.PARAMETER, "The request is no JSON object") from error
    if not isinstance(value, dict):
        raise Refusal(Kind.PARAMETER, "The request is no JSON object")
    return value


def _reply(status: int, value: object, *, headers: dict[str, str] | None = None) -> Reply:
    standard = {
        "Content-Type": "application/x-amz-json-1.1",
        "x-amzn-RequestId": str(uuid.uuid4()),
    }
    return Reply(status, standard | (headers or {}), json.dumps(value).encode())
