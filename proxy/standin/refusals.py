"""What ECR refuses, in its own words: one exception for the registry API and the JSON API.

`/v2/` is a thin front end over the JSON API (ECR.md, "Mental model"), so a refusal is raised once,
where the rule is, and each front end renders it its own way. No rules are decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum


class Kind(Enum):
    """A registry code with its status, and the JSON API's exception for the same thing."""

    NAME_INVALID = ("NAME_INVALID", 400, "InvalidParameterException")
    NAME_UNKNOWN = ("NAME_UNKNOWN", 404, "RepositoryNotFoundException")
    TAG_INVALID = ("TAG_INVALID", 400, "InvalidParameterException")
    TAG_IMMUTABLE = ("TAG_INVALID", 400, "ImageTagAlreadyExistsException")
    DIGEST_INVALID = ("DIGEST_INVALID", 400, "InvalidParameterException")
    PARAMETER = ("UNSUPPORTED", 405, "InvalidParameterException")
    MANIFEST_UNKNOWN = ("MANIFEST_UNKNOWN", 404, "ImageNotFoundException")
    MANIFEST_INVALID = ("MANIFEST_INVALID", 400, "ImageDigestDoesNotMatchException")
    CHILDREN_UNKNOWN = ("MANIFEST_BLOB_UNKNOWN", 400, "ReferencedImagesNotFoundException")
    LAYERS_UNKNOWN = ("BLOB_UPLOAD_UNKNOWN", 404, "LayersNotFoundException")
    BLOB_UNKNOWN = ("BLOB_UNKNOWN", 404, "LayersNotFoundException")
    BLOB_INACCESSIBLE = ("BLOB_UNKNOWN", 404, "LayerInaccessibleException")
    UPLOAD_UNKNOWN = ("BLOB_UPLOAD_UNKNOWN", 404, "UploadNotFoundException")
    UPLOAD_OFFSET = ("BLOB_UPLOAD_INVALID", 416, "InvalidLayerPartException")
    UPLOAD_EMPTY = ("BLOB_UPLOAD_INVALID", 400, "EmptyUploadException")
    UPLOAD_PART = ("BLOB_UPLOAD_INVALID", 400, "LayerPartTooSmallException")
    UPLOAD_DIGEST = ("BLOB_UPLOAD_INVALID", 400, "InvalidLayerException")
    LIMIT = ("DENIED", 403, "LimitExceededException")
    DENIED = ("DENIED", 403, "AccessDeniedException")
    TOKEN_EXPIRED = ("DENIED", 403, "ExpiredTokenException")
    THROTTLED = ("TOOMANYREQUESTS", 429, "ThrottlingException")
    REPOSITORY_EXISTS = ("NAME_INVALID", 400, "RepositoryAlreadyExistsException")
    REFERENCED = ("UNSUPPORTED", 405, "ImageReferencedByManifestListException")
    UNSUPPORTED = ("UNSUPPORTED", 405, "UnknownOperationException")
    UNSIGNED = ("UNAUTHORIZED", 401, "MissingAuthenticationTokenException")
    CLIENT = ("UNAUTHORIZED", 401, "UnrecognizedClientException")
    SIGNATURE = ("UNAUTHORIZED", 401, "InvalidSignatureException")

    @property
    def code(self) -> str:
        return self.value[0]

    @property
    def status(self) -> int:
        return self.value[1]

    @property
    def exception(self) -> str:
        return self.value[2]


class Refusal(Exception):
    """An answer that is no success. `status` replaces the kind's own one on the registry API."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status or kind.status
        self.headers = dict(headers or {})

    def registry_body(self) -> bytes:
        return registry_error(self.kind.code, self.message)


def registry_error(code: str, message: str) -> bytes:
    """The registry API's error body, as ECR writes it."""
    value = {"errors": [{"code": code, "message": message}]}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def parameter(name: str, constraint: str) -> Refusal:
    """ECR's words for a parameter that fails validation; 405 UNSUPPORTED on the registry API."""
    return Refusal(Kind.PARAMETER, parameter_text(name, constraint))


def parameter_text(name: str, constraint: str) -> str:
    return f"Invalid parameter at '{name}' failed to satisfy constraint: '{constraint}'"


def repository_unknown(account: str, name: str) -> Refusal:
    return Refusal(
        Kind.NAME_UNKNOWN,
        f"The repository with name '{name}' does not exist in the registry with id '{account}'",
    )


def image_unknown() -> Refusal:
    return Refusal(Kind.MANIFEST_UNKNOWN, "Requested image not found")


def blob_unknown(account: str, name: str, digest: str) -> Refusal:
    return Refusal(
        Kind.BLOB_UNKNOWN,
        f"The layer with digest {digest} does not exist within the repository with name '{name}' "
        f"in the registry with id '{account}'",
    )


def blob_inaccessible(digest: str, status: int) -> Refusal:
    return Refusal(
        Kind.BLOB_INACCESSIBLE,
        f"The layer with digest {digest} is not available because it is not associated with an "
        "image. Unassociated image layers may be cleaned up at any time.",
        status=status,
    )


def upload_unknown(account: str, name: str, upload: str) -> Refusal:
    return Refusal(
        Kind.UPLOAD_UNKNOWN,
        f"The upload with id '{upload}' in the repository with name '{name}' in registry with id "
        f"'{account}' could not be found",
    )


def required(what: str, digests: Iterable[str], account: str, name: str) -> str:
    """ECR's sentence for missing `what` ("Layers", "Images")."""
    return (
        f"{what} with digests '[{', '.join(digests)}]' required for pushing image into repository "
        f"with name '{name}' in the registry with id '{account}' do not exist"
    )


def denied(principal: str, action: str, resource: str) -> Refusal:
    return Refusal(
        Kind.DENIED,
        f"User: {principal} is not authorized to perform: {action} on resource: {resource} "
        f"because no identity-based policy allows the {action} action",
    )
