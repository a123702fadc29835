"""The repositories of a registry that a client may know of, page by page.

A registry's pages are cut anew when some of their names are left out: a page is full unless it is
the last one, and the place where the next one begins is sealed, since it may be a name that the
client may not know.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from proxy.errors import PageInvalid
from proxy.services.listings import PageRequest
from proxy.upstream import Page, Registry

# ECR gives no more at once (ECR.md §3).
_PAGE: Final = 1000
# Of so many pages at most is one of ours made: it may then be short, and its link leads on.
_MAX_ASKED: Final = 10


class Catalog:
    """Lists repositories for clients that may not see all. `secret` is of a `Fernet`'s form."""

    def __init__(self, secret: bytes) -> None:
        # Not the key of upload locations itself, or one could be shown as the other.
        key = hashlib.blake2b(secret, digest_size=32, person=b"catalog").digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    async def page(
        self, registry: Registry, asked: PageRequest, may_see: Callable[[str], bool]
    ) -> Page:
        """The next names that the client may see; raises `PageInvalid`, and upstream's words."""
        last, skip = (None, 0) if asked.last is None else self._unseal(registry, asked.last)
        wanted = _PAGE if asked.n is None else asked.n
        names: list[str] = []
        for _ in range(_MAX_ASKED if wanted else 0):
            page = await registry.list_repositories(n=_PAGE, last=last)
            seen = [(i, name) for i, name in enumerate(page.names) if i >= skip and may_see(name)]
            room = wanted - len(names)
            names += [name for _, name in seen[:room]]
            if len(seen) > room:
                return Page(tuple(names), self._seal(registry, last, seen[room][0]))
            if page.next_last is None:
                return Page(tuple(names), None)
            last, skip = page.next_last, 0
            if len(names) == wanted:
                break
        return Page(tuple(names), self._seal(registry, last, skip) if wanted else None)

    def _seal(self, registry: Registry, last: str | None, skip: int) -> str:
        place = json.dumps([registry.name, last, skip]).encode()
        return self._fernet.encrypt(place).decode().rstrip("=")

    def _unseal(self, registry: Registry, token: str) -> tuple[str | None, int]:
        padded = token + "=" * (-len(token) % 4)
        try:
            name, last, skip = json.loads(self._fernet.decrypt(padded.encode()))
        except (InvalidToken, ValueError) as error:
            raise _no_place() from error
        if name != registry.name:
            raise _no_place()
        return last, skip


def _no_place() -> PageInvalid:
    return PageInvalid(
        "last is no place in this list: follow the Link of the page before, or leave it out"
    )
