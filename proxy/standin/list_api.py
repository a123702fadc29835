"""Lists: tags, repositories, referrers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from proxy.oci import OCI_INDEX
from proxy.standin.context import Context, Target
from proxy.standin.exchange import Call
from proxy.standin.refusals import parameter
from proxy.standin.replies import Reply

_MAX: Final = 1000
_TEXT: Final = "text/plain; charset=utf-8"


async def tags(context: Context, call: Call, target: Target) -> Reply:
    """A page of tags, unordered, with an absolute Link to the next (ECR.md §3)."""
    repository = context.state.repository(target.name, call.account)
    # No order to rely on, yet the same one every time, or pages would not add up.
    names = sorted(repository.tags, key=lambda tag: hashlib.sha256(tag.encode()).digest())
    page, headers = _page(context, call, names)
    return Reply(200, headers, _json({"name": target.name, "tags": page}))


async def catalog(context: Context, call: Call, target: Target) -> Reply:
    """A page of the account's repositories."""
    names = sorted(n for account, n in context.state.repositories if account == call.account)
    page, headers = _page(context, call, names)
    return Reply(200, headers, _json({"repositories": page}))


async def referrers(context: Context, call: Call, target: Target) -> Reply:
    """The index of images whose subject is the digest (distribution-spec, "Listing Referrers")."""
    repository = context.state.repository(target.name, call.account)
    wanted = call.query.get("artifactType")
    descriptors = []
    for image in repository.images.values():
        facts = image.facts
        if facts.subject != target.digest or wanted not in (None, facts.artifact_type):
            continue
        descriptor: dict[str, object] = {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": len(image.content),
        }
        if facts.artifact_type:
            descriptor["artifactType"] = facts.artifact_type
        if facts.annotations:
            descriptor["annotations"] = facts.annotations
        descriptors.append(descriptor)
    headers = {"Content-Type": OCI_INDEX}
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
    return Reply(200, headers, _json(index))


def _page(context: Context, call: Call, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    secret = context.state.page_secret
    size = _size(call.query.get("n"), context.state.settings.tags_page)
    start = _opened(secret, call.query["last"], call.path) if call.query.get("last") else 0
    page = list(names[start : start + size])
    headers = {"Content-Type": _TEXT}
    if start + size < len(names):
        query = f"last={quote(_sealed(secret, start + size, call.path), safe='')}"
        if "n" in call.query:
            query += f"&n={size}"
        headers["Link"] = f'<http://{call.host}{call.raw_path}?{query}>; rel="next"'
    return page, headers


def _size(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not text.strip("0"):
        raise parameter("maxResults", "Member must have value greater than or equal to 1")
    if len(text) > 9 or int(text) > _MAX:
        raise parameter("maxResults", f"Member must have value less than or equal to {_MAX}")
    return int(text)


def _sealed(secret: bytes, position: int, path: str) -> str:
    """An opaque `last`: base64 with all its "+/=", good for one list."""
    mac = hmac.digest(secret, f"{position}\n{path}".encode(), "sha256")
    return base64.b64encode(mac + str(position).encode()).decode()


def _opened(secret: bytes, last: str, path: str) -> int:
    refusal = parameter("NextToken", "Invalid next token provided")
    try:
        text = base64.b64decode(last, validate=True)
        position = int(text[32:])
    except (binascii.Error, ValueError) as error:
        raise refusal from error
    if not hmac.compare_digest(_sealed(secret, position, path).encode(), last.encode()):
        raise refusal
    return position


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
