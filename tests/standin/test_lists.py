"""Lists, deletes and unknown routes: ECR.md §3, the stand-in's lines 17 and 39."""

from __future__ import annotations

import re

import pytest
from yarl import URL

from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from tests.standin.client import REPOSITORY, Client, descriptor, image
from tests.standin.conftest import Running

TAGS = f"/v2/{REPOSITORY}/tags/list"
_LINK = re.compile(r'<([^>]+)>; rel="next"')


async def pages(client: Client, path: str, key: str) -> list[list[str]]:
    """All pages, by following Link."""
    found, following = [], path
    while following:
        answer = await client.ask("GET", following)
        assert answer.status == 200
        found.append(answer.json[key])
        match = _LINK.fullmatch(answer.headers.get("Link", ""))
        following = match[1] if match else ""
    return found


def tag_many(client: Client, count: int) -> set[str]:
    state = client.standin.state
    names = {f"t{number}" for number in range(count)}
    digest = state.put_manifest(REPOSITORY, image([b"x"]), OCI_MANIFEST)
    state.repository(REPOSITORY).tags.update(dict.fromkeys(names, digest))
    return names


async def test_tags_come_100_a_page_unordered_with_an_absolute_link(client: Client) -> None:
    names = tag_many(client, 250)
    answer = await client.ask("GET", TAGS)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.json["name"] == REPOSITORY
    link = answer.headers["Link"]
    assert link.startswith(f"<{client.standin.url}{TAGS}?last=")
    assert link.endswith('>; rel="next"')
    found = await pages(client, TAGS, "tags")
    assert [len(page) for page in found] == [100, 100, 50]
    assert {tag for page in found for tag in page} == names
    assert found[0] != sorted(found[0])


async def test_n_sizes_the_pages(client: Client) -> None:
    names = tag_many(client, 7)
    found = await pages(client, f"{TAGS}?n=3", "tags")
    assert [len(page) for page in found] == [3, 3, 1]
    assert {tag for page in found for tag in page} == names
    assert len((await client.ask("GET", f"{TAGS}?n=1000")).json["tags"]) == 7


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "n=1001",
            (
                "Invalid parameter at 'maxResults' failed to satisfy constraint: "
                "'Member must have value less than or equal to 1000'"
            ),
        ),
        (
            "last=v1",
            (
                "Invalid parameter at 'NextToken' failed to satisfy constraint: "
                "'Invalid next token provided'"
            ),
        ),
        (
            "last=" + "A" * 44,
            (
                "Invalid parameter at 'NextToken' failed to satisfy constraint: "
                "'Invalid next token provided'"
            ),
        ),
    ],
)
async def test_n_over_1000_and_a_forged_last_are_405(
    client: Client, query: str, message: str
) -> None:
    tag_many(client, 3)
    assert (await client.ask("GET", f"{TAGS}?{query}")).error == (405, "UNSUPPORTED", message)


async def test_a_last_of_another_list_is_forged(client: Client) -> None:
    tag_many(client, 3)
    client.standin.state.create_repository("team/other")
    link = _LINK.fullmatch((await client.ask("GET", f"{TAGS}?n=1")).headers["Link"])
    assert link is not None
    elsewhere = link[1].replace(REPOSITORY, "team/other")
    assert (await client.ask("GET", elsewhere)).status == 405


@pytest.mark.parametrize("n", ["0", "-1", "x", "9" * 5000])
async def test_n_that_is_no_count_is_405(client: Client, n: str) -> None:
    assert (await client.ask("GET", f"{TAGS}?n={n}")).error[:2] == (405, "UNSUPPORTED")


async def test_the_tags_of_an_unknown_repository_are_404(client: Client) -> None:
    assert (await client.ask("GET", "/v2/team/none/tags/list")).error[:2] == (404, "NAME_UNKNOWN")


async def test_the_catalog_is_paged_too(running: Running) -> None:
    names = [f"r{number}" for number in range(5)]
    async with running(repositories=tuple(names)) as client:
        found = await pages(client, "/v2/_catalog?n=2", "repositories")
        assert found == [["r0", "r1"], ["r2", "r3"], ["r4"]]
        assert (await client.ask("GET", "/v2/_catalog?n=1001")).status == 405


async def test_referrers_are_an_index_of_those_that_have_the_subject(client: Client) -> None:
    subject = await client.push_image(b"layer")
    path = f"/v2/{REPOSITORY}/referrers/{Digest.of(subject)}"
    empty = await client.ask("GET", path)
    assert (empty.status, empty.headers["Content-Type"]) == (200, OCI_INDEX)
    assert empty.json["manifests"] == []
    signature = image(
        [b"layer"],
        subject=descriptor(subject, OCI_MANIFEST),
        artifactType="application/x.signature",
        annotations={"by": "me"},
    )
    assert (await client.put_manifest(signature, "sig")).status == 201
    [found] = (await client.ask("GET", path)).json["manifests"]
    assert found == {
        "mediaType": OCI_MANIFEST,
        "digest": Digest.of(signature),
        "size": len(signature),
        "artifactType": "application/x.signature",
        "annotations": {"by": "me"},
    }
    filtered = await client.ask("GET", f"{path}?artifactType=application/x.sbom")
    assert filtered.json["manifests"] == []
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"


async def test_delete_of_a_manifest_is_202(client: Client) -> None:
    content = await client.push_image(b"layer", tag="one")
    await client.put_manifest(content, "two")
    # By tag only the tag goes, while there is another.
    assert (await client.ask("DELETE", f"/v2/{REPOSITORY}/manifests/one")).status == 202
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/one")).status == 404
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/two")).status == 200
    by_digest = f"/v2/{REPOSITORY}/manifests/{Digest.of(content)}"
    assert (await client.ask("DELETE", by_digest)).status == 202
    assert (await client.ask("GET", f"/v2/{REPOSITORY}/manifests/two")).status == 404
    assert (await client.ask("DELETE", by_digest)).error[:2] == (404, "MANIFEST_UNKNOWN")


async def test_a_child_of_an_index_is_protected(client: Client) -> None:
    child = await client.push_image(b"layer")
    parent = (
        b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s",'
        b'"size":%d}]}'
        % (OCI_INDEX.encode(), OCI_MANIFEST.encode(), Digest.of(child).encode(), len(child))
    )
    assert (await client.put_manifest(parent, "multi", media_type=OCI_INDEX)).status == 201
    path = f"/v2/{REPOSITORY}/manifests/"
    assert (await client.ask("DELETE", path + Digest.of(child))).status == 405
    assert (await client.ask("DELETE", path + "multi")).status == 202
    assert (await client.ask("DELETE", path + Digest.of(child))).status == 202


@pytest.mark.parametrize(
    "path", ["/", "/v1/", "/v2/x", "/v2/team/app/unknown", "/v2/team/app/manifests/", "/v22/"]
)
async def test_an_unknown_route_is_404_page_not_found(client: Client, path: str) -> None:
    answer = await client.ask("GET", path)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_a_method_that_a_route_does_not_have_is_405(client: Client) -> None:
    blob = f"/v2/{REPOSITORY}/blobs/{Digest.of(b'x')}"
    assert (await client.ask("DELETE", blob)).error[:2] == (405, "UNSUPPORTED")


async def test_link_and_location_follow_the_host_header(client: Client) -> None:
    tag_many(client, 2)
    port = URL(client.standin.url).port
    host = {"Host": f"localhost:{port}"}
    answer = await client.ask("GET", f"{TAGS}?n=1", headers=host)
    assert answer.headers["Link"].startswith(f"<http://localhost:{port}/v2/")
