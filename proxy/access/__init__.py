"""Who a client is, and what it may do: no HTTP, no sockets, nothing of caches or upstream."""

from proxy.access.identity import NOBODY, Action, Identity

__all__ = ["NOBODY", "Action", "Identity"]
