"""Presigned URLs in the shape of S3's, valid only byte for byte as they were written.

The signature is no SigV4: it covers the method, the Host and the raw path and query, so that any
re-encoding, however harmless elsewhere, fails (ECR.md §3 "Presigned URLs"). Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final
from urllib.parse import parse_qs, quote

_MARK: Final = "&X-Amz-Signature="
_DATE: Final = "%Y%m%dT%H%M%SZ"


class Verdict(Enum):
    VALID = "valid"
    UNSIGNED = "unsigned"
    MISMATCH = "mismatch"
    EXPIRED = "expired"


class Presigner:
    """Signs and checks with a secret of its own.

    The rest is how the secrets in a URL begin: key, session token, signature.
    """

    def __init__(
        self, *, region: str, lifetime: float, key_id: str, session_token: str, signature: str
    ) -> None:
        self.lifetime = lifetime
        self._region = region
        self._key_id = key_id
        self._session_token = session_token
        self._signature_start = signature
        self._secret = secrets.token_bytes(32)

    def sign(self, host: str, path: str, now: datetime) -> str:
        """`path?query` for a GET of `path` at `host`, good for `lifetime` seconds from `now`."""
        scope = f"{self._key_id}/{now:%Y%m%d}/{self._region}/s3/aws4_request"
        # "+" and "/" and "=" in there, escaped: a client that re-encodes the URL changes them.
        session = f"{self._session_token}+/{secrets.token_urlsafe(24)}+/="
        query = "&".join(
            (
                f"X-Amz-Security-Token={quote(session, safe='')}",
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                f"X-Amz-Date={now.strftime(_DATE)}",
                "X-Amz-SignedHeaders=host",
                f"X-Amz-Expires={max(1, int(self.lifetime))}",
                f"X-Amz-Credential={quote(scope, safe='')}",
            )
        )
        return f"{path}?{query}{_MARK}{self._signature('GET', host, f'{path}?{query}')}"

    def check(self, method: str, host: str, target: str, now: datetime) -> Verdict:
        """Judge a request target exactly as it came over the wire."""
        signed, mark, signature = target.rpartition(_MARK)
        if not mark:
            return Verdict.UNSIGNED
        wanted = self._signature(method, host, signed)
        if not hmac.compare_digest(signature.encode(), wanted.encode()):
            return Verdict.MISMATCH
        return Verdict.EXPIRED if expiry(target) <= now else Verdict.VALID

    def _signature(self, method: str, host: str, target: str) -> str:
        text = f"{method}\n{host.lower()}\n{target}".encode()
        return self._signature_start + hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def expiry(target: str) -> datetime:
    """When a presigned target ends."""
    query = parse_qs(target.partition("?")[2])
    start = datetime.strptime(query["X-Amz-Date"][0], _DATE).replace(tzinfo=UTC)
    return start + timedelta(seconds=int(query["X-Amz-Expires"][0]))
