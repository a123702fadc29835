"""Tags, repositories and referrers: asked upstream each time, since all of them change there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from proxy.oci import Digest
from proxy.services.registries import Target
from proxy.upstream import Page, Referrers, Registry


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`n` entries at most (None: as many as upstream likes), after the entry `last`."""

    n: int | None = None
    last: str | None = None


class Listings:
    """The three lists of the registry API; each raises what upstream answers."""

    async def tags(self, target: Target, page: PageRequest) -> Page:
        return await _page(page, partial(target.registry.list_tags, target.repository))

    async def repositories(self, registry: Registry, page: PageRequest) -> Page:
        return await _page(page, registry.list_repositories)

    async def referrers(
        self, target: Target, subject: Digest, artifact_type: str | None, query: str | None
    ) -> Referrers:
        """`query`, if given, is the one that the page before named for this one."""
        return await target.registry.list_referrers(
            target.repository, subject, artifact_type=artifact_type, query=query
        )


class _Lister(Protocol):
    async def __call__(self, *, n: int | None, last: str | None) -> Page: ...


async def _page(page: PageRequest, ask: _Lister) -> Page:
    """`n=0` asks for an empty list (distribution-spec, "Listing Tags"), which ECR refuses; what is
    not there to be listed is refused all the same.
    """
    if page.n != 0:
        return await ask(n=page.n, last=page.last)
    await ask(n=1, last=None)
    return Page((), None)
