"""Tags, repositories, referrers: pages and the way from one to the next."""

from __future__ import annotations

import json

import pytest

from proxy.errors import BadGateway, NameUnknown, NotFound
from proxy.oci import Digest, RepositoryName
from proxy.upstream import Page, Registry
from proxy.upstream.listings import find_last
from tests.upstream.fakes import Answer, FakeServer, ecr_error

REPO = RepositoryName("team/app")
TAGS = f"/v2/{REPO}/tags/list"
SUBJECT = Digest.of(b"subject")


def tags(*names: str, link: str | None = None) -> Answer:
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if link is not None:
        headers["Link"] = link
    return Answer(200, json.dumps({"name": REPO, "tags": list(names)}).encode(), headers)


async def test_opaque_token_goes_round(ecr: Registry, server: FakeServer) -> None:
    token = "a+b/c==&é %"
    escaped = "a%2Bb%2Fc%3D%3D%26%C3%A9%20%25"
    link = f'<{server.url}{TAGS}?last={escaped}&n=2>; rel="next"'
    server.tell("GET", TAGS, tags("b", "a", link=link))
    server.tell("GET", f"{TAGS}?last={escaped}", tags("c"))
    first = await ecr.list_tags(REPO, n=None, last=None)
    assert first == Page(("b", "a"), token)
    assert await ecr.list_tags(REPO, n=None, last=first.next_last) == Page(("c",), None)


@pytest.mark.parametrize(("n", "sent"), [(0, 0), (5, 5), (1000, 1000), (1001, 1000)])
async def test_n_of_ecr_is_a_thousand_at_most(
    ecr: Registry, server: FakeServer, n: int, sent: int
) -> None:
    server.tell("GET", f"{TAGS}?n={sent}", tags())
    assert await ecr.list_tags(REPO, n=n) == Page((), None)


async def test_n_of_others_is_theirs_to_judge(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", f"{TAGS}?n=5000&last=x", tags("y"))
    assert await plain.list_tags(REPO, n=5000, last="x") == Page(("y",), None)


async def test_catalog(plain: Registry, server: FakeServer) -> None:
    body = json.dumps({"repositories": ["a", "b/c"]}).encode()
    link = '</v2/_catalog?last=b%2Fc&n=2>; rel="next"'
    server.tell("GET", "/v2/_catalog?n=2", Answer(200, body, {"Link": link}))
    assert await plain.list_repositories(n=2) == Page(("a", "b/c"), "b/c")


async def test_no_tags_may_be_null(plain: Registry, server: FakeServer) -> None:
    server.tell("GET", TAGS, Answer(200, b'{"name":"team/app","tags":null}'))
    assert await plain.list_tags(REPO) == Page((), None)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags":[1]}', b'{"tags":"x"}', b"<html>"])
async def test_what_is_no_list_is_a_bad_gateway(
    plain: Registry, server: FakeServer, body: bytes
) -> None:
    server.tell("GET", TAGS, Answer(200, body))
    with pytest.raises(BadGateway, match="no list"):
        await plain.list_tags(REPO)


async def test_missing_repository(ecr: Registry, server: FakeServer) -> None:
    server.tell("GET", TAGS, Answer(404, ecr_error("NAME_UNKNOWN", "does not exist")))
    with pytest.raises(NameUnknown):
        await ecr.list_tags(REPO)


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("/v2/_catalog?last=x", "x"),
        ("https://h/v2/a/tags/list?n=1&last=a%3D%3D", "a=="),
        ("?last=a+b", "a+b"),
        ("?last=a=b", "a=b"),
        ("?last=", ""),
        ("?next_page=x", None),
        ("/x", None),
    ],
)
def test_last_of_a_link(target: str, last: str | None) -> None:
    assert find_last(target) == last


async def test_a_link_that_never_ends_leads_nowhere(plain: Registry, server: FakeServer) -> None:
    """Each `<` may begin one, and each would be looked for to the end."""
    server.tell("GET", TAGS, tags("a", link="<" * 100_000))
    assert await plain.list_tags(REPO) == Page(("a",), None)


async def test_referrers_are_given_verbatim(plain: Registry, server: FakeServer) -> None:
    target = f"/v2/{REPO}/referrers/{SUBJECT}?artifactType=application%2Fx%2By"
    body = b'{ "schemaVersion": 2 , "manifests": [] }'
    link = f'<{target}&page=2%2f>; rel="next"'
    server.tell(
        "GET", target, Answer(200, body, {"OCI-Filters-Applied": "artifactType", "Link": link})
    )
    found = await plain.list_referrers(REPO, SUBJECT, artifact_type="application/x+y")
    assert found.content == body
    assert found.filtered
    assert found.next_query == "artifactType=application%2Fx%2By&page=2%2f"
    server.tell("GET", f"{target}&page=2%2f", Answer(200, b"{}"))
    rest = await plain.list_referrers(REPO, SUBJECT, query=found.next_query)
    assert (rest.content, rest.filtered, rest.next_query) == (b"{}", False, None)


@pytest.mark.parametrize("query", ['a="', "a=\\\\b", "a={b}", "a=`b`", "a=^"])
async def test_query_that_cannot_stand_in_a_link_of_ours_is_left_out(
    plain: Registry, server: FakeServer, query: str
) -> None:
    link = {"Link": f'</v2/{REPO}/referrers/{SUBJECT}?{query}>; rel="next"'}
    server.tell("GET", f"/v2/{REPO}/referrers/{SUBJECT}", Answer(200, b"{}", link))
    assert (await plain.list_referrers(REPO, SUBJECT)).next_query is None


async def test_upstream_without_referrers_is_a_404(plain: Registry) -> None:
    with pytest.raises(NotFound):
        await plain.list_referrers(REPO, SUBJECT)
