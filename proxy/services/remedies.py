"""What to do about upstream's refusals of a push: its words, and the remedy after them.

Pure: an error in, one of the same code, status and headers out. An error that is of another kind
comes back as it is. Nothing is asked or repaired here.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

from proxy.errors import NameUnknown, RegistryError, UpstreamRefusal
from proxy.oci import Digest, Tag
from proxy.services.registries import Target
from proxy.upstream import EcrHost, parse_host

_Error = TypeVar("_Error", bound=RegistryError)

# ECR: BLOB_UPLOAD_UNKNOWN for layers, MANIFEST_BLOB_UNKNOWN for an index's children (ECR.md §4);
# distribution: MANIFEST_BLOB_UNKNOWN for both; BLOB_UNKNOWN is what others say.
_MISSING: Final = frozenset({"BLOB_UPLOAD_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
_MISSING_CHILDREN: Final = "Images with digests "
# A digest that was cut off with the end of the words is none.
_DIGEST: Final = re.compile(r"\b(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})(?![a-f0-9])", re.ASCII)


def explain_missing_repository(error: NameUnknown, target: Target) -> NameUnknown:
    """For a push into a repository that ECR does not have: how it comes to be.

    Behind another registry there is nothing to add: another proxy has done so already.
    """
    if not target.registry.is_ecr:
        return error
    host = parse_host(target.registry.name)
    if host is not None and host.public:
        return _add(error, "create the repository in ECR Public first")
    command = _aws("create-repository", target, host)
    return _add(
        error,
        f"create it: {command}; or let this proxy create what a push finds missing, with "
        "--create-repositories",
    )


def is_immutable_refusal(error: RegistryError) -> bool:
    """Whether ECR refused to move a tag that may not move (ECR.md §4)."""
    return error.wire_code == "TAG_INVALID" and "immutable" in error.message


def explain_immutable(error: _Error, target: Target, tag: Tag) -> _Error:
    """For a tag that may not move: how ECR is told that it may, as the tag of a cache must."""
    if not is_immutable_refusal(error) or not target.registry.is_ecr:
        return error
    command = _aws("put-image-tag-mutability", target, parse_host(target.registry.name))
    pattern = "cache*" if tag.startswith("cache") else tag
    return _add(
        error,
        "push a tag that is not in use; or, for the tag of a cache, which moves with every "
        f"export, exclude it: {command} --image-tag-mutability IMMUTABLE_WITH_EXCLUSION "
        "--image-tag-mutability-exclusion-filters "
        f"'filterType=WILDCARD,filter={pattern}' (in place of the filters that are there)",
    )


def missing_digests(error: RegistryError) -> tuple[Digest, ...]:
    """What upstream says it lacks of a manifest that it refused: blobs, or an index's children.

    In upstream's order, each once; empty for another refusal, and where upstream names none.
    Whatever else its words name is among them: only what the manifest itself names counts.
    """
    if error.wire_code not in _MISSING:
        return ()
    return tuple(dict.fromkeys(Digest.parse(found) for found in _DIGEST.findall(error.message)))


def explain_missing_blobs(error: _Error) -> _Error:
    """For a manifest whose blobs were promised and are not there, in push.mode write-back.

    The children of an index are never promised: they are upstream when their PUT is answered.
    """
    if error.wire_code not in _MISSING or error.message.startswith(_MISSING_CHILDREN):
        return error
    return _add(
        error,
        "push again, and what is missing is uploaded; if blobs and manifest reached "
        "different proxies, behind a balancer without stickiness, each of these needs "
        'push.mode = "write-through" (--push-mode write-through)',
    )


def _aws(operation: str, target: Target, host: EcrHost | None) -> str:
    """The command of the AWS CLI; without a region where the registry's name tells none."""
    command = f"aws ecr {operation} --repository-name {target.repository}"
    return command if host is None else f"{command} --region {host.region}"


def _add(error: _Error, remedy: str) -> _Error:
    """The same error with the remedy after its words."""
    message = f"{error.message} ({remedy})"
    if isinstance(error, UpstreamRefusal):
        return type(error)(
            message, code=error.wire_code, status=error.wire_status, headers=error.headers
        )
    return type(error)(message, headers=error.headers)
