"""Checks the AWS Signature Version 4 of a JSON API request.

Source: AWS "Signature Version 4 signing process". Header signatures only, as botocore makes them;
time is not checked, since tests move the stand-in's clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from proxy.standin.principals import AccessKey, Principals
from proxy.standin.refusals import Kind, Refusal

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/"
    r"(?P<service>[^/]+)/aws4_request, ?SignedHeaders=(?P<headers>[^,]+), ?"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # any mapping that looks names up in whatever case
    body: bytes


def authenticate(
    request: SignedRequest, principals: Principals, *, service: str, region: str | None
) -> AccessKey:
    """The key that signed the request; `region` None takes any. Raises AWS's refusals."""
    match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise Refusal(Kind.UNSIGNED, "Missing Authentication Token")
    key = principals.find(match["key"])
    if (request.headers.get("X-Amz-Security-Token") or None) != key.session_token:
        raise Refusal(Kind.CLIENT, "The security token included in the request is invalid.")
    if match["service"] != service or region not in (None, match["region"]):
        raise Refusal(
            Kind.SIGNATURE,
            f"Credential should be scoped to a valid region and service: {region}/{service}, "
            f"not {match['region']}/{match['service']}.",
        )
    if not hmac.compare_digest(match["signature"], _signature(request, match, key.secret)):
        raise Refusal(
            Kind.SIGNATURE,
            "The request signature we calculated does not match the signature you provided. Check "
            "your AWS Secret Access Key and signing method.",
        )
    return key


def _signature(request: SignedRequest, match: re.Match[str], secret: str) -> str:
    pairs = sorted(parse_qsl(request.query, keep_blank_values=True))
    query = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs)
    names = match["headers"].split(";")
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names
    )
    canonical = "\n".join(
        (
            request.method,
            request.path,
            query,
            headers,
            match["headers"],
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{match['date']}/{match['region']}/{match['service']}/aws4_request"
    text = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            request.headers.get("X-Amz-Date", ""),
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
