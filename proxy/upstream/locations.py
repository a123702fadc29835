"""Where upstream sends us: Location headers resolved byte for byte, and whom credentials may reach.

Pure. A presigned URL is signed over its exact bytes (ECR.md §3), so nothing here re-encodes.
"""

from __future__ import annotations

import ipaddress
import re
from fnmatch import fnmatchcase
from typing import Final

from yarl import URL

from proxy.errors import BadGateway

# What may stand in a request line: a location with anything else would break out of it.
_SAFE: Final = re.compile(r"[\x21-\x7e]+")
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]", re.IGNORECASE)


def resolve(location: str, *, base: str) -> str:
    """The absolute form of a Location header received for a request to `base`.

    An absolute one is given back as it is. Raises `BadGateway` for what is no HTTP location.
    """
    if not is_safe(location):
        raise BadGateway(f"upstream {base!r} sent us to {location[:200]!r}, which is no URL")
    location, _, _ = location.partition("#")
    if _ABSOLUTE.match(location):
        resolved = location
    elif location.startswith("//"):
        resolved = f"{URL(base, encoded=True).scheme}:{location}"
    else:
        here = base.partition("#")[0].partition("?")[0]
        path_at = here.index("/", here.index("://") + 3) if here.count("/") > 2 else len(here)
        origin, path = here[:path_at], here[path_at:] or "/"
        if location.startswith("/"):
            resolved = origin + location
        elif location.startswith("?") or not location:
            resolved = origin + path + location
        else:
            resolved = origin + path[: path.rindex("/") + 1] + location
    try:
        url = URL(resolved, encoded=True)
        usable = url.host and url.port and url.scheme in {"http", "https"} and url.user is None
    except ValueError:
        usable = None
    if not usable:
        raise BadGateway(f"upstream {base!r} sent us to {location[:200]!r}, which is no URL")
    return resolved


def is_safe(text: str) -> bool:
    """Whether a URL may stand in a request line as it is."""
    return _SAFE.fullmatch(text) is not None


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port: what credentials are bound to."""
    return url.scheme, (url.host or "").lower(), url.port


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Destinations:
    """Where requests of one registry may go, and which of them carry its credentials."""

    def __init__(self, base: URL, patterns: tuple[str, ...]) -> None:
        self._origin = origin(base)
        self._name = base.host or ""
        self._patterns = tuple(pattern.lower() for pattern in patterns)

    def takes_credentials(self, url: URL) -> bool:
        """Only the registry's own scheme, host and port (DESIGN.md settled 15)."""
        return origin(url) == self._origin

    def check(self, location: str) -> URL:
        """The URL to request, byte for byte; raises `BadGateway` if we do not go there."""
        url = URL(location, encoded=True)
        scheme, host, _ = origin(url)
        if scheme == "http" and self._origin[0] == "https":
            raise BadGateway(
                f"{self._name} redirects from https to http://{host}, which is not followed"
            )
        if not self._allows(host):
            raise BadGateway(
                f"{self._name} redirects to the host {host}, which is not allowed: "
                "add it to redirect-hosts of this registry if it is meant to serve its blobs"
            )
        return url

    def _allows(self, host: str) -> bool:
        own = self._origin[1]
        if host == own or (is_loopback(own) and is_loopback(host)):
            return True
        return any(fnmatchcase(host, pattern) for pattern in self._patterns)
