"""ECR's tokens: GetAuthorizationToken of the private and of the public registry (ECR.md §2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from proxy.errors import BadGateway, RegistryError
from proxy.events import Event, Events, Kind
from proxy.upstream.aws import Aws
from proxy.upstream.aws_errors import NoCredentials
from proxy.upstream.tokens import Token

_ACTION: Final = "GetAuthorizationToken"
# What ECR's tokens live for, should the answer not say so.
_LIFETIME: Final = 12 * 3600.0
_SHORTEST: Final = 1.0


def private_source(aws: Aws, registry: str) -> Callable[[], Awaitable[Token]]:
    """A source for `TokenKeeper`; one token reaches every registry of the principal's."""

    async def fetch() -> Token:
        answer = await aws.call("ecr", _ACTION, lambda client: client.get_authorization_token())
        entries = answer.get("authorizationData") or [{}]
        return _read_token(entries[0], answer, registry)

    return fetch


def public_credentials(
    aws: Aws, registry: str, events: Events
) -> Callable[[], Awaitable[str | None]]:
    """What buys a bearer token of ECR Public; None, for an anonymous one, where there is nothing.

    Pulling takes no credentials, so those that AWS refuses are trouble, but no reason to fail.
    """

    async def fetch() -> str | None:
        try:
            answer = await aws.call(
                "ecr-public", _ACTION, lambda client: client.get_authorization_token()
            )
        except NoCredentials:
            return None
        except RegistryError as error:
            detail = f"going on without credentials: {error.message}"
            events.emit(Event(Kind.TROUBLE, registry=registry, detail=detail))
            return None
        return _read_token(answer.get("authorizationData") or {}, answer, registry).header

    return fetch


def _read_token(entry: Mapping[str, Any], answer: Mapping[str, Any], registry: str) -> Token:
    # Base64 of AWS:password, to be used as it is (ECR.md §2).
    token = entry.get("authorizationToken")
    if not token:
        raise BadGateway(f"AWS answered {_ACTION} for {registry} without a token")
    expires = entry.get("expiresAt")
    lifetime = _LIFETIME
    if isinstance(expires, datetime):
        lifetime = max((expires - _server_time(answer)).total_seconds(), _SHORTEST)
    return Token(f"Basic {token}", lifetime)


def _server_time(answer: Mapping[str, Any]) -> datetime:
    """AWS's clock as of its answer: ours may be wrong (ECR.md §7)."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        moment = parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return datetime.now(UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
