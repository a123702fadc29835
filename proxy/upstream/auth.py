"""Who we are to a registry: the Authorization header, and how to get a better one.

Here are the protocol that all ways share, and the pure parts. `tokens` has ECR's way, `bearer` that
of any other registry.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

# The scope of requests that are about no repository.
ANY: Final = ""


class Authorizer(Protocol):
    """Gives the Authorization header for requests to one registry's own host.

    `scope` is what a request needs, as in `repository:NAME:pull,push`; only tokens that are bound
    to a scope care. `challenge` is every WWW-Authenticate header of the answer that refused us.
    """

    async def header(self, scope: str = ANY) -> str | None:
        """The header's value, None to send none; raises `RegistryError` if there should be one."""
        ...

    async def refresh(
        self, used: str | None, *, scope: str = ANY, challenge: Sequence[str] = ()
    ) -> None:
        """Get a new header, as upstream refused `used`; nothing happens if it is new already.

        Raises `RegistryError` if none is to be had.
        """
        ...

    def accepted(self, used: str | None, *, scope: str = ANY) -> None:
        """Upstream took `used`: should it be refused later on, that is worth a new one at once."""
        ...

    def age(self, scope: str = ANY) -> float | None:
        """Seconds since the header was obtained, None if it can never become stale."""
        ...

    def problem(self) -> str | None:
        """Why there is no header right now that there should be, None if all is well."""
        ...

    async def close(self) -> None: ...


def basic(username: str, password: str) -> str:
    """The value of a Basic header (RFC 7617); raises `ValueError` for a colon in the name."""
    if ":" in username:
        raise ValueError(f"the user name {username!r} contains a colon")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """Where to get a token, and for what (distribution's token authentication)."""

    realm: str
    service: str
    scope: str


# A name begins where a word does: else a long word without a value is looked at from each letter.
_PARAMETER: Final = re.compile(
    r'(?<![A-Za-z0-9_-])([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))'
)
_SCHEME: Final = re.compile(r"(?:^|,)\s*(bearer)\s+(?=[A-Za-z0-9_-]+\s*=)", re.IGNORECASE)
_NEXT_SCHEME: Final = re.compile(r",\s*[A-Za-z]+\s+[A-Za-z0-9_-]+\s*=")


def parse_bearer(challenge: Sequence[str]) -> BearerChallenge | None:
    """The first Bearer challenge among WWW-Authenticate headers, None if there is none."""
    for value in challenge:
        start = _SCHEME.search(value)
        if start is None:
            continue
        rest = value[start.end() :]
        end = _NEXT_SCHEME.search(rest)
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
            for name, quoted, bare in _PARAMETER.findall(rest[: end.start()] if end else rest)
        }
        if parameters.get("realm"):
            return BearerChallenge(
                parameters["realm"], parameters.get("service", ""), parameters.get("scope", "")
            )
    return None
