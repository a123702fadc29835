"""STS as far as roles need it: AssumeRole and GetCallerIdentity, in the query protocol (XML)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from proxy.standin.refusals import Kind, Refusal
from proxy.standin.replies import Reply
from proxy.standin.sigv4 import SignedRequest, authenticate
from proxy.standin.state import State

_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
# STS's own names and statuses for what `refusals` calls otherwise.
_ERRORS: Final = {
    Kind.DENIED: ("AccessDenied", 403),
    Kind.CLIENT: ("InvalidClientTokenId", 403),
    Kind.SIGNATURE: ("SignatureDoesNotMatch", 403),
    Kind.UNSIGNED: ("MissingAuthenticationToken", 403),
    Kind.UNSUPPORTED: ("InvalidAction", 400),
    Kind.PARAMETER: ("ValidationError", 400),
}


def answer(state: State, signed: SignedRequest) -> Reply:
    """One query-protocol request, whatever its action."""
    form = dict(parse_qsl(signed.body.decode(errors="replace"), keep_blank_values=True))
    try:
        return _answer(state, signed, form)
    except Refusal as refusal:
        code, status = _ERRORS.get(refusal.kind, (refusal.kind.exception, 400))
        inner = (
            f"<Error><Type>Sender</Type><Code>{code}</Code>"
            f"<Message>{escape(refusal.message)}</Message></Error>"
        )
        return _xml(
            status, f'<ErrorResponse xmlns="{_NAMESPACE}">{inner}{_metadata()}</ErrorResponse>'
        )


def _answer(state: State, signed: SignedRequest, form: dict[str, str]) -> Reply:
    key = authenticate(signed, state.principals, service="sts", region=None)
    account = key.arn.split(":")[4]
    match form.get("Action"):
        case "GetCallerIdentity":
            return _result(
                "GetCallerIdentity",
                f"<Arn>{escape(key.arn)}</Arn><UserId>{key.id}</UserId><Account>{account}</Account>",
            )
        case "AssumeRole":
            arn, session = form.get("RoleArn", ""), form.get("RoleSessionName", "")
            if not arn or not session:
                raise Refusal(Kind.PARAMETER, "RoleArn and RoleSessionName are required")
            assumed = state.principals.assume(
                key, arn, session=session, external_id=form.get("ExternalId")
            )
            seconds = float(form.get("DurationSeconds", "3600"))
            expiration = state.clock.now() + seconds
            return _result(
                "AssumeRole",
                f"<AssumedRoleUser><AssumedRoleId>{assumed.id}:{escape(session)}</AssumedRoleId>"
                f"<Arn>{escape(assumed.arn)}</Arn></AssumedRoleUser>"
                f"<Credentials><AccessKeyId>{assumed.id}</AccessKeyId>"
                f"<SecretAccessKey>{assumed.secret}</SecretAccessKey>"
                f"<SessionToken>{assumed.session_token}</SessionToken>"
                f"<Expiration>{_iso(expiration)}</Expiration></Credentials>",
            )
        case other:
            raise Refusal(Kind.UNSUPPORTED, f"Could not find operation {other}")


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _result(action: str, inner: str) -> Reply:
    return _xml(
        200,
        f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>{inner}</{action}Result>'
        f"{_metadata()}</{action}Response>",
    )


def _metadata() -> str:
    return f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata>"


def _xml(status: int, text: str) -> Reply:
    return Reply(status, {"Content-Type": "text/xml"}, text.encode())
