"""Who a client is, and what it may do: nothing of requests, sockets, caches or upstream."""

from proxy.access.attempts import network_of
from proxy.access.authenticator import Authenticator, open_authenticator
from proxy.access.identity import NOBODY, AccessError, Action, Identity
from proxy.access.rules import Rule, Rules

__all__ = [
    "NOBODY",
    "AccessError",
    "Action",
    "Authenticator",
    "Identity",
    "Rule",
    "Rules",
    "network_of",
    "open_authenticator",
]
