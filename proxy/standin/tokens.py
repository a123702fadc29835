"""Registry tokens: issued to a principal, checked at every request.

A token carries its facts and a signature, so that none need be kept. No HTTP here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any

from proxy.standin.clock import Clock

USERNAME = "AWS"
ANONYMOUS = "anonymous"
_MARGIN = 60.0  # seconds


class Flaw(Enum):
    """Why a password is no good."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


class BadToken(Exception):
    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class Token:
    """A password for the user `AWS`, and when it ends (seconds since the epoch)."""

    password: str
    principal: str
    expires_at: float
    number: int  # counted from 1 in this process

    @property
    def authorization(self) -> str:
        """The JSON API's `authorizationToken`."""
        return base64.b64encode(f"{USERNAME}:{self.password}".encode()).decode()


class Tokens:
    """Issues and checks. Passwords have the shape of ECR's: base64 of a JSON object.

    `payload` is in each of them, such that its base64 is a part of the password's.
    """

    def __init__(
        self, secret: bytes, clock: Clock, *, lifetime: float, size: int, payload: str = ""
    ) -> None:
        self.lifetime = lifetime
        self._secret = secret
        self._clock = clock
        self._size = size
        # 13 characters come before it in the JSON text, and base64 takes three at a time.
        self._payload = f"**{payload}"
        self._number = 0
        self._revoked_to = 0

    def issue(self, principal: str) -> Token:
        self._number += 1
        expires_at = self._clock.now() + self.lifetime
        facts: dict[str, Any] = {
            "payload": self._payload,
            "principal": principal,
            "number": self._number,
            "version": "2",
            "type": "DATA_KEY",
            "expiration": expires_at,
        }
        # base64 twice over `AWS:` and the JSON text; the payload fills it up to the wanted size.
        room = self._size * 9 // 16 - len(json.dumps(facts)) - 100
        facts["payload"] += base64.b64encode(secrets.token_bytes(max(24, room * 3 // 4))).decode()
        facts["signature"] = self._sign(facts)
        password = base64.b64encode(json.dumps(facts).encode()).decode()
        return Token(password, principal, expires_at, self._number)

    def check(self, password: str) -> str:
        """The principal a password was issued to; raises `BadToken`."""
        try:
            facts = json.loads(base64.b64decode(password, validate=True))
        except (binascii.Error, ValueError) as error:
            raise BadToken(Flaw.MALFORMED) from error
        if not isinstance(facts, dict):
            raise BadToken(Flaw.MALFORMED)
        signature = facts.pop("signature", None)
        if not isinstance(signature, str) or not hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._sign(facts).encode()
        ):
            raise BadToken(Flaw.UNKNOWN)
        if facts["number"] <= self._revoked_to or facts["expiration"] <= self._clock.now():
            raise BadToken(Flaw.EXPIRED)
        return str(facts["principal"])

    def is_good(self, token: Token) -> bool:
        """Whether a token of ours still has a minute to go."""
        return token.number > self._revoked_to and token.expires_at - self._clock.now() > _MARGIN

    def expire_all(self) -> None:
        """From now on every token issued so far counts as expired."""
        self._revoked_to = self._number

    def _sign(self, facts: dict[str, Any]) -> str:
        text = json.dumps(facts, sort_keys=True).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
