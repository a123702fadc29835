"""How many files this process may have open, and what that means for connections. A leaf."""

from __future__ import annotations

import logging
import resource
from typing import Final

_log = logging.getLogger(__name__)

# A connection may need a file of the cache, or a connection upstream, beside its own.
_FOR_EACH: Final = 2
# The cache's own files, threads' pipes, AWS's API, the log.
_OWN: Final = 256


def room_for_connections(wanted: int) -> int:
    """How many connections the system lets us have, `wanted` at most.

    The soft limit is raised to what they need, as far as the hard one goes; what is missing then is
    a warning.
    """
    needed = wanted * _FOR_EACH + _OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    have = needed if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, have), hard))
    room = max(1, (have - _OWN) // _FOR_EACH)
    if room < wanted:
        _log.warning(
            "%d connections at most are taken, not the %d of max-connections: this process may "
            "have %d files open, and needs %d; raise that limit (ulimit -Hn, LimitNOFILE of "
            "systemd)",
            room,
            wanted,
            have,
            needed,
        )
    return min(room, wanted)
