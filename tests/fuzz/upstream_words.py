"""What upstream says, as far as it is parsed by pure functions: errors, locations, challenges."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from multidict import CIMultiDict
from yarl import URL

from proxy.errors import BadGateway, RegistryError
from proxy.upstream.auth import parse_bearer
from proxy.upstream.bearer import _read_token
from proxy.upstream.errors import Kind, What, means_expired, read_words, translate
from proxy.upstream.hosts import parse_host
from proxy.upstream.listings import find_last
from proxy.upstream.locations import Destinations, check_patterns, is_safe, resolve
from proxy.upstream.retry import retry_after
from tests.fuzz.documents import Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

_BASE: Final = "https://registry.example/v2/app/blobs/x?y=1#z"
_BASES: Final = (_BASE, "http://127.0.0.1:5000", "https://[::1]:8443/", "http://h/a/../b")
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]")
_PATTERNS: Final = ("*.amazonaws.com", "*.cdn.example")
LOCATIONS: Final = (
    *("/v2/app/blobs/uploads/1", "uploads/2?state=a%2Fb", "?digest=x", "//cdn.example/x", "", "#"),
    "https://bucket.s3.eu-west-1.amazonaws.com/l/ab?X-Amz-Signature=0f&X-Amz-Credential=A%2Fb",
    *("http://a.cdn.example:8080/x", "https://user:pw@registry.example/", "https://[::1]/x"),
    *("https://registry.example:443/x", "http://169.254.169.254/latest", "https://[fe80::1%25e]/"),
    *("ftp://registry.example/x", "javascript:alert(1)", "https://xn--9ca.example/", "http://0/"),
)
_ERRORS: Final[tuple[dict[str, Any], ...]] = (
    {"errors": [{"code": "NAME_UNKNOWN", "message": "no such", "detail": "why"}]},
    {"errors": [{"code": "DENIED", "message": "Your token has expired", "detail": {"a": 1}}]},
    {"errors": []},
    {"message": "x"},
)
_PLAIN: Final = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Expired</Message></Error>",
    b"<html><body>502</body></html>",
    b"404 page not found",
    b"",
)
RETRY_AFTER: Final = (
    *("0", "1", "120", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 +0200"),
    *("21 Oct 26 07:28 EST", "-5", "1.5"),
)
CHALLENGES: Final = (
    'Bearer realm="https://registry.example/token",service="registry",scope="repository:a:pull"',
    'Basic realm="x", Bearer realm=https://registry.example/t, error="invalid_token"',
    'bearer Realm="a\\"b"',
    'Negotiate, NTLM, Bearer realm="x" , Digest a=b',
)
TOKENS: Final = (
    {"token": "abc", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"},
    {"access_token": "a.b-c", "token": None},
)
_HOSTS: Final = (
    *("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "public.ecr.aws", "ecr-public.aws.com"),
    *("123456789012.dkr-ecr.us-east-1.on.aws", "123456789012.dkr.ecr-fips.x.amazonaws.com.cn"),
)
_LINKS: Final = ("/v2/a/tags/list?n=1&last=x%2B+y", "?last=", "https://h/v2/_catalog?last=a#b")


def _draw_error(mutator: Mutator) -> tuple[int, CIMultiDict[str], bytes]:
    status = mutator.one((301, 400, 401, 403, 404, 405, 409, 413, 416, 418, 429, 500, 503, 504))
    headers: CIMultiDict[str] = CIMultiDict()
    if mutator.often(0.5):
        headers["Content-Type"] = mutator.text(("application/json", "text/html; charset=x"))
    if mutator.often(0.3):
        headers["Retry-After"] = mutator.text(RETRY_AFTER)
    if mutator.often(0.6):
        return status, headers, Documents(mutator, _ERRORS).content()
    return status, headers, mutator.content(_PLAIN)


def _check_error(drawn: tuple[int, CIMultiDict[str], bytes]) -> str:
    status, headers, body = drawn
    words = read_words(headers, body)
    means_expired(status, words)
    error = translate(status, headers, body, What("registry", Kind.BLOB, "app", "sha256:x"))
    if not isinstance(error, RegistryError) or error.wire_status == 401:
        raise Wrong("no error for a client")
    json.loads(error.body())
    if not (error.reason().isascii() and error.reason().isprintable()):
        raise Wrong("no line of a header")
    said = error.retry_after
    if said is not None and said < 0:
        raise Wrong("a time before now")
    return str(error.wire_status)


def _draw_location(mutator: Mutator) -> tuple[str, str]:
    return mutator.text(LOCATIONS), mutator.one(_BASES)


def _check_location(drawn: tuple[str, str]) -> str:
    location, base = drawn
    try:
        resolved = resolve(location, base=base)
    except BadGateway:
        return "502"
    if not is_safe(resolved):
        raise Wrong("a location that breaks out of a request line")
    if _ABSOLUTE.match(location) and resolved != location.partition("#")[0]:
        raise Wrong("a location that was written anew")
    destinations = Destinations(URL("https://registry.example", encoded=True), _PATTERNS)
    try:
        url = destinations.check(resolved)
    except BadGateway:
        return "refused"
    host = (url.host or "").lower()
    if url.scheme != "https" or not (
        host == "registry.example" or host.endswith((".amazonaws.com", ".cdn.example"))
    ):
        raise Wrong(f"we would go to {url}")
    if destinations.takes_credentials(url) and host != "registry.example":
        raise Wrong(f"credentials would go to {url}")
    return "followed"


def _draw_challenge(mutator: Mutator) -> list[str]:
    return [mutator.text(CHALLENGES) for _ in range(mutator.one((1, 1, 2)))]


def _check_challenge(values: list[str]) -> str:
    challenge = parse_bearer(values)
    if challenge is not None and not challenge.realm:
        raise Wrong("a challenge without a realm")
    return "none" if challenge is None else "challenge"


def _draw_token(mutator: Mutator) -> bytes:
    return Documents(mutator, TOKENS).content()


def _check_token(body: bytes) -> str:
    try:
        token, lifetime = _read_token(body, "registry")
    except BadGateway:
        return "502"
    if not token.isprintable() or not token.isascii():
        raise Wrong("a token that is no header")
    if lifetime is not None and not math.isfinite(lifetime):
        raise Wrong("a token that lives for ever, or for no time at all")
    return "token"


def _draw_words(mutator: Mutator) -> tuple[str, str, str]:
    return mutator.text(RETRY_AFTER), mutator.text(_HOSTS), mutator.text(_LINKS)


def _check_words(drawn: tuple[str, str, str]) -> str:
    said: list[Any] = []
    seconds = retry_after(drawn[0])
    if seconds is not None:
        if math.isnan(seconds) or seconds < 0:
            raise Wrong("a time before now")
        said.append("time")
    host = parse_host(drawn[1])
    if host is not None:
        try:
            check_patterns(host.redirect_hosts)
        except ValueError:
            said.append("no host")  # of no region that can be: such a registry is not opened
        else:
            said.append("host")
    if find_last(drawn[2]) is not None:
        said.append("last")
    return "+".join(said) or "none"


def targets() -> tuple[Target, ...]:
    return (
        Target("upstream's errors", _draw_error, _check_error),
        Target("locations", _draw_location, _check_location, 1.5),
        Target("challenges", _draw_challenge, _check_challenge),
        Target("bearer tokens", _draw_token, _check_token, 0.7),
        Target("Retry-After, hosts, links", _draw_words, _check_words),
    )
