"""What goes wrong in the cache; nothing here knows what a client is told of it."""

from __future__ import annotations


class CacheError(Exception):
    """The cache cannot do what it was asked; the message is a sentence that says why."""


class NoSpace(CacheError):
    """The budget has no room, and nothing that may be evicted would make enough."""


class FillFailed(CacheError):
    """A blob's bytes could not be had whole and right; the message names its digest."""


class Corrupt(FillFailed):
    """A blob's bytes came, and are not what its digest and size promise."""


class WrongDigest(CacheError):
    """Bytes that were to be stored under a digest hash to another one."""


class DiskFailed(CacheError):
    """The disk refused a read or a write; the `OSError` is the cause."""
