"""Listings of a registry: tags, repositories, referrers."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote, unquote

from proxy.errors import BadGateway
from proxy.oci import MAX_MANIFEST_BYTES, Digest, RepositoryName
from proxy.upstream.client import Call, Client, Reply
from proxy.upstream.errors import Kind, What
from proxy.upstream.locations import is_safe, shown
from proxy.upstream.values import Page, Referrers

_MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
_ECR_MAX_N: Final = 1000  # more is refused (ECR.md §3)
# Escaped in a header of ours it is three times as long, and clients take 8 KiB (aiohttp, nginx).
_MAX_LINK: Final = 2048
_LINK: Final = re.compile(r"<([^<>]*)>([^<]*)")
# What may be in a query (RFC 3986 §3.4): nothing that ends a link, or a header.
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]+")
_REL_NEXT: Final = re.compile(r""";\s*rel\s*=\s*["']?next\b""", re.IGNORECASE)


class ListingCalls:
    """The listing half of `Registry`."""

    _client: Client
    is_ecr: bool

    async def list_tags(
        self, repository: RepositoryName, *, n: int | None = None, last: str | None = None
    ) -> Page:
        """One page of tags, in upstream's order; raises `NameUnknown`, or upstream's refusal."""
        return await self._list(
            f"/v2/{repository}/tags/list",
            self._client.what(Kind.REPOSITORY, repository),
            "tags",
            scope=f"repository:{repository}:pull",
            n=n,
            last=last,
        )

    async def list_repositories(self, *, n: int | None = None, last: str | None = None) -> Page:
        """One page of the registry's repositories; raises upstream's refusal."""
        return await self._list(
            "/v2/_catalog",
            self._client.what(Kind.REGISTRY),
            "repositories",
            scope="registry:catalog:*",
            n=n,
            last=last,
        )

    async def list_referrers(
        self,
        repository: RepositoryName,
        digest: Digest,
        *,
        artifact_type: str | None = None,
        query: str | None = None,
    ) -> Referrers:
        """The index of what refers to `digest`; `query` is `next_query` of the page before.

        Raises an error of status 404 where upstream knows no referrers.
        """
        if query is None and artifact_type is not None:
            query = f"artifactType={quote(artifact_type, safe='')}"
        call = Call(
            "GET",
            self._client.what(Kind.REGISTRY, repository, digest),
            f"/v2/{repository}/referrers/{digest}" + (f"?{query}" if query else ""),
            scope=f"repository:{repository}:pull",
            safe=True,
        )
        reply = await self._client.ask(call, limit=MAX_MANIFEST_BYTES)
        applied = ",".join(reply.headers.getall("OCI-Filters-Applied", ())).lower()
        following = _find_next(reply)
        return Referrers(
            content=reply.body,
            filtered="artifacttype" in (part.strip() for part in applied.split(",")),
            next_query=_find_query(following) if following else None,
        )

    async def _list(
        self, path: str, what: What, key: str, *, scope: str, n: int | None, last: str | None
    ) -> Page:
        query = []
        if n is not None:
            query.append(f"n={min(n, _ECR_MAX_N) if self.is_ecr else n}")
        if last is not None:
            query.append(f"last={quote(last, safe='')}")
        call = Call(
            "GET", what, path + (f"?{'&'.join(query)}" if query else ""), scope=scope, safe=True
        )
        reply = await self._client.ask(call, limit=_MAX_PAGE_BYTES)
        # Whatever its content type: ECR's is text/plain (ECR.md §3).
        try:
            names = json.loads(reply.body).get(key) or []
        except (ValueError, AttributeError, RecursionError):
            names = [None]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadGateway(f"{self._client.name} listed {key} of {what} as what is no list")
        following = _find_next(reply)
        return Page(tuple(names), find_last(following) if following else None)


def _find_next(reply: Reply) -> str | None:
    """The target of the Link header with rel=next (RFC 8288), as it was given."""
    for value in reply.headers.getall("Link", ()):
        for target, parameters in _LINK.findall(value):
            if _REL_NEXT.search(parameters):
                if len(target) > _MAX_LINK or not is_safe(target):
                    raise BadGateway(
                        f"{shown(reply.url)} links to its next page by what is no URL, or by one "
                        f"of more than {_MAX_LINK} characters"
                    )
                return str(target)
    return None


def _find_query(target: str) -> str | None:
    """The query of a link, to be repeated in one of ours; None without one that can be."""
    query = target.partition("?")[2].partition("#")[0]
    return query if query and _QUERY.fullmatch(query) else None


def find_last(target: str) -> str | None:
    """The `last` in a link's query, decoded; None if there is none.

    A plus stays one: the tokens of ECR are opaque, and may be base64 that nobody encoded.
    """
    for part in target.partition("?")[2].partition("#")[0].split("&"):
        name, found, value = part.partition("=")
        if name == "last" and found:
            return unquote(value)
    return None
