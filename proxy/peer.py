"""How proxies of this kind know each other in a chain (DESIGN.md settled 3).

Each request upstream carries the header, and so does each reply to `GET /v2/`: whoever sees it
knows that the other side is this program too. The value is the version, for people who read logs.
"""

from __future__ import annotations

from importlib import metadata
from typing import Final

PEER_HEADER: Final = "Ecr-Cache-Proxy"

# On a stale reply: how many seconds ago what it says was so. RFC 7234's Age is on fresh ones too.
AGE_HEADER: Final = "Ecr-Cache-Proxy-Age"


def version() -> str:
    """The version of the installed distribution."""
    return metadata.version("ecr-cache-proxy")
