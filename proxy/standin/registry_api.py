"""The registry API's front door: who is asking, for what, may they, and who answers.

The order in which ECR looks at a request is this module's matter: authorization, route, name,
reference, policy, rate; then the part that answers looks at the repository and the rest.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeAlias

from proxy.standin import blob_api, list_api, manifest_api, upload_api
from proxy.standin.context import Context, Target
from proxy.standin.exchange import Call
from proxy.standin.faults import Fault
from proxy.standin.presign import Presigner
from proxy.standin.rates import Operation
from proxy.standin.refusals import Kind, Refusal, registry_error
from proxy.standin.replies import HANGUP, Reply
from proxy.standin.state import State, check_name
from proxy.standin.tokens import ANONYMOUS, USERNAME, BadToken, Flaw

VERSION_HEADER: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}
_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}
_TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}
_NOT_FOUND: Final = Reply(404, _TEXT, b"404 page not found\n")

Answerer: TypeAlias = Callable[[Context, Call, Target], Awaitable[Reply]]

# The route of each path, and who answers each method under which operation. GET stands for HEAD
# too where both are the same operation.
_ROUTES: Final[tuple[tuple[re.Pattern[str], dict[str, tuple[Operation, Answerer]]], ...]] = (
    (
        re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"),
        {
            "GET": (Operation.BATCH_GET_IMAGE, manifest_api.get),
            "HEAD": (Operation.BATCH_GET_IMAGE, manifest_api.get),
            "PUT": (Operation.PUT_IMAGE, manifest_api.put),
            "DELETE": (Operation.DELETE_IMAGE, manifest_api.delete),
        },
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?"),
        {"POST": (Operation.INITIATE_UPLOAD, upload_api.start)},
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[^/]+)"),
        {
            "PATCH": (Operation.UPLOAD_PART, upload_api.append),
            "PUT": (Operation.COMPLETE_UPLOAD, upload_api.complete),
            "GET": (Operation.UPLOAD_PART, upload_api.status),
            "DELETE": (Operation.UPLOAD_PART, upload_api.cancel),
        },
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)"),
        {
            "GET": (Operation.GET_DOWNLOAD_URL, blob_api.get),
            "HEAD": (Operation.CHECK_LAYERS, blob_api.head),
        },
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/tags/list"),
        {"GET": (Operation.LIST_IMAGES, list_api.tags)},
    ),
    (
        re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)"),
        {"GET": (Operation.LIST_REFERRERS, list_api.referrers)},
    ),
    (
        re.compile(r"/v2/_catalog"),
        {"GET": (Operation.DESCRIBE_REPOSITORIES, list_api.catalog)},
    ),
)


class RegistryApi:
    """Answers everything on the registry's port but the JSON API."""

    def __init__(self, state: State, presigner: Presigner, s3_origin: Callable[[str], str]) -> None:
        self._state = state
        self._context = Context(state, presigner, s3_origin)

    async def answer(self, call: Call) -> Reply:
        try:
            return await self._answer(call)
        except Refusal as refusal:
            return Reply(
                refusal.status,
                _JSON | VERSION_HEADER | refusal.headers,
                refusal.registry_body(),
            )

    def fault_reply(self, call: Call, fault: Fault) -> Reply:
        """An outage in the registry's style: a JSON error."""
        status = fault.status or 500
        if fault.body is not None:
            return Reply(status, _TEXT | dict(fault.headers), fault.body.encode())
        code, message = {
            403: ("DENIED", "Denied on demand"),
            404: ("MANIFEST_UNKNOWN", "Requested image not found"),
            429: ("TOOMANYREQUESTS", "Rate exceeded"),
        }.get(status, ("UNKNOWN", "Internal server error"))
        return Reply(status, _JSON | dict(fault.headers), registry_error(code, message))

    async def _answer(self, call: Call) -> Reply:
        if self._state.settings.public and call.path in ("/token", "/token/"):
            return self._public_token(call)
        if call.path != "/v2" and not call.path.startswith("/v2/"):
            return _NOT_FOUND
        try:
            call.principal = self._authenticate(call)
        except BadToken as error:
            return self._bad_token(call, error.flaw)
        if call.path in ("/v2", "/v2/"):
            # The body of an authenticated ping is not known.
            return Reply(200, _TEXT | VERSION_HEADER)
        for pattern, methods in _ROUTES:
            match = pattern.fullmatch(call.path)
            if match is not None:
                if call.method not in methods:
                    raise Refusal(Kind.UNSUPPORTED, "The operation is unsupported")
                operation, answerer = methods[call.method]
                target = Target.parse(match.groupdict())
                return await self._enter(call, target, operation, answerer)
        return _NOT_FOUND

    async def _enter(
        self, call: Call, target: Target, operation: Operation, answerer: Answerer
    ) -> Reply:
        if target.name:
            check_name(target.name)
        target.check()
        if self._state.settings.public and operation == Operation.CHECK_LAYERS:
            return self._challenge(call)  # ECR Public's HEAD of a blob (O, CR#2671)
        self._state.policy.check(
            call.principal, operation, account=call.account, repository=target.name or None
        )
        self._state.rates.take(call.account, operation)
        try:
            reply = await answerer(self._context, call, target)
        except Refusal as refusal:
            if (
                refusal.kind is Kind.NAME_UNKNOWN
                and call.method == "POST"
                and self._state.settings.unknown_repository_closes_socket
            ):
                return HANGUP
            raise
        return replace(reply, headers=VERSION_HEADER | dict(reply.headers))

    # Authorization (ECR.md §2)

    def _authenticate(self, call: Call) -> str:
        scheme, _, credentials = call.headers.get("Authorization", "").partition(" ")
        if self._state.settings.public:
            if scheme.lower() != "bearer":
                raise BadToken(Flaw.UNKNOWN)
            # The JSON API's token, `AWS:` and all, serves as a Bearer too (Amazon ECR Public User
            # Guide, "Registry authentication").
            try:
                return self._state.tokens.check(_password(credentials))
            except BadToken as error:
                if error.flaw is Flaw.EXPIRED:
                    raise
                return self._state.tokens.check(credentials)
        if scheme.lower() != "basic":
            raise BadToken(Flaw.UNKNOWN)
        return self._state.tokens.check(_password(credentials))

    def _bad_token(self, call: Call, flaw: Flaw) -> Reply:
        if flaw is Flaw.UNKNOWN:
            return self._challenge(call)
        if flaw is Flaw.MALFORMED:
            return Reply(400, _TEXT | VERSION_HEADER, b"Bad Request\n")
        status = 400 if self._state.settings.public else self._state.settings.expired_token_status
        return Reply(
            status,
            _JSON | VERSION_HEADER,
            registry_error(
                "DENIED", "Your authorization token has expired. Reauthenticate and try again."
            ),
        )

    def _challenge(self, call: Call) -> Reply:
        if self._state.settings.public:
            challenge = (
                f'Bearer realm="http://{call.host}/token/",service="public.ecr.aws",scope="aws"'
            )
        else:
            host = self._state.host_of(call.account)
            challenge = f'Basic realm="https://{host}/",service="ecr.amazonaws.com"'
        headers = _TEXT | VERSION_HEADER | {"Www-Authenticate": challenge}
        return Reply(401, headers, b"Not Authorized\n")

    def _public_token(self, call: Call) -> Reply:
        """ECR Public's `/token`: for a Basic password its principal, else anonymous."""
        scheme, _, credentials = call.headers.get("Authorization", "").partition(" ")
        principal = ANONYMOUS
        if scheme:
            try:
                principal = self._state.tokens.check(_password(credentials))
            except BadToken as error:
                return self._bad_token(call, error.flaw)
        token = self._state.tokens.issue(principal)
        return Reply(200, _JSON, json.dumps({"token": token.password}).encode())


def _password(credentials: str) -> str:
    """The password in Basic credentials, for the user AWS; raises `BadToken`."""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise BadToken(Flaw.MALFORMED) from error
    user, colon, password = text.partition(":")
    if not colon:
        raise BadToken(Flaw.MALFORMED)
    if user != USERNAME:
        raise BadToken(Flaw.UNKNOWN)
    return password
