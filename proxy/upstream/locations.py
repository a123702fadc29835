"""Where upstream sends us: Location headers resolved byte for byte, and whom credentials may reach.

Pure. A presigned URL is signed over its exact bytes (ECR.md §3), so nothing here re-encodes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from yarl import URL

from proxy.errors import BadGateway
from proxy.upstream.addresses import is_forbidden, is_loopback

# What may stand in a request line: a location with anything else would break out of it.
_SAFE: Final = re.compile(r"[\x21-\x7e]+")
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]", re.IGNORECASE)
_OTHER_SCHEME: Final = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# A host that every program reads in the same way: no escapes, no empty labels, no dot at the end.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# Digits at the end make it an address for some programs and a name for others.
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
_OWN_PORTS: Final = {"http": 80, "https": 443}


def resolve(location: str, *, base: str) -> str:
    """The absolute form of a Location header received for a request to `base`.

    An absolute one is given back as it is. Raises `BadGateway` for what is no HTTP location, or
    what not everybody would read as the same one.
    """
    if not is_safe(location) or _OTHER_SCHEME.match(location):
        raise _no_url(location, base)
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
        usable = url.port and url.scheme in _OWN_PORTS and "@" not in url.raw_authority
        usable = usable and is_host(url.host or "")
    except ValueError:
        usable = False
    if not usable:
        raise _no_url(location, base)
    return resolved


def _no_url(location: str, base: str) -> BadGateway:
    return BadGateway(
        f"upstream {shown(base)!r} sent us to {shown(location)!r}, which is no URL of a registry"
    )


def shown(url: str) -> str:
    """A URL for people: without its query, which may be signed, and without user and password."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"//[^/]*@", "//", bare)[:200]


def is_host(host: str) -> bool:
    """Whether it is a host's name in ASCII, or an address as everybody writes it; any case."""
    host = host.lower()
    if "%" in host:
        return False  # an escape, or the zone of an address
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None and _NUMBER.fullmatch(host) is None
    return True


def is_safe(text: str) -> bool:
    """Whether a URL may stand in a request line as it is."""
    return _SAFE.fullmatch(text) is not None


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port: what credentials are bound to."""
    return url.scheme, (url.host or "").lower(), url.port


class HostPattern:
    """Hosts that a registry may send us to: `cdn.example`, `*.cdn.example`, `minio.lan:9000`.

    A star stands for a part of one label, and as a label of its own at the beginning for one or
    more. Without a port the scheme's own one is meant.
    """

    def __init__(self, pattern: str) -> None:
        """Raises `ValueError` for what is no pattern, or leaves open whose hosts are meant."""
        host, _, port = pattern.lower().partition(":")
        if pattern.startswith("[") or pattern.count(":") > 1:  # IPv6
            host, _, port = pattern.lower().removeprefix("[").partition("]")
            port = port.removeprefix(":")
        if not is_host(host.replace("*", "x")) or (port and not port.isdigit()):
            raise ValueError(
                f"redirect-hosts: {pattern!r} is no pattern; write cdn.example, or *.cdn.example"
            )
        labels = host.split(".")
        if "*" in labels[-1]:
            raise ValueError(
                f"redirect-hosts: {pattern!r} means hosts of everybody; write *.cdn.example"
            )
        words = [re.escape(label).replace(r"\*", "[^.]*") for label in labels]
        if labels[0] == "*":
            words[0] = r"[^.]+(?:\.[^.]+)*"
        self._host = re.compile(r"\.".join(words))
        self._port = int(port) if port else None

    def matches(self, url: URL) -> bool:
        scheme, host, port = origin(url)
        if port != (self._port or _OWN_PORTS.get(scheme)):
            return False
        return self._host.fullmatch(host) is not None


def check_patterns(patterns: Iterable[str]) -> None:
    """Raise `ValueError`, with a sentence, for a pattern that is none."""
    for pattern in patterns:
        HostPattern(pattern)


class Destinations:
    """Where requests of one registry may go, and which of them carry its credentials."""

    def __init__(self, base: URL, patterns: tuple[str, ...]) -> None:
        """Raises `ValueError` for a pattern that is none."""
        self._origin = origin(base)
        self._name = base.host or ""
        self._patterns = tuple(HostPattern(pattern) for pattern in patterns)

    def takes_credentials(self, url: URL) -> bool:
        """Only the registry's own scheme, host and port (DESIGN.md settled 15)."""
        return origin(url) == self._origin

    def check(self, location: str, *, uploads: bool = False) -> URL:
        """The URL to request, byte for byte; raises `BadGateway` if we do not go there.

        `uploads`: a client's bytes are sent there, so that the registry's own origin is meant, and
        not just any port of its host.
        """
        url = URL(location, encoded=True)
        if self.takes_credentials(url):
            return url
        does = "wants uploads sent" if uploads else "redirects"
        scheme, host, port = origin(url)
        if scheme == "http" and self._origin[0] == "https":
            raise BadGateway(
                f"{self._name} {does} from https to http://{host}, which is not followed"
            )
        if is_forbidden(host):
            raise BadGateway(
                f"{self._name} {does} to {host}, an address that is link-local or of a cloud's "
                "metadata service: it is never followed to there"
            )
        if not self._allows(url, uploads=uploads):
            name = f"[{host}]" if ":" in host else host
            named = name if port == _OWN_PORTS.get(scheme) else f"{name}:{port}"
            raise BadGateway(
                f"{self._name} {does} to the host {named}, which is not allowed: "
                "add it to redirect-hosts of this registry if it is meant to "
                + ("take its blobs" if uploads else "serve its blobs")
            )
        return url

    def _allows(self, url: URL, *, uploads: bool) -> bool:
        own, host = self._origin[1], (url.host or "").lower()
        if not uploads and (host == own or (is_loopback(own) and is_loopback(host))):
            return True
        return any(pattern.matches(url) for pattern in self._patterns)
