"""What must hold at the stand-in after any push: it is looked at there, not asked for.

A stand-in with `check_layers=False` takes every manifest: what is complete there is complete by
the proxy's own doing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.oci import Digest
from proxy.standin import Recorded, StandIn
from proxy.standin.repository import Image, Repository

_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/?]+)")
_REPOSITORY = re.compile(r"/v2/(?P<name>.+)/(?:blobs|manifests)/")


def assert_all_is_committed(standin: StandIn, *, seeded: Iterable[Digest] = ()) -> int:
    """Every blob and child of every manifest is in its repository, has the bytes that its digest
    says, and was put there before the manifest's first PUT arrived; how many manifests there are.

    `seeded` are blobs that are there by no request. No two manifests may be pushed under one tag:
    a PUT that came to nothing is taken for a try at what that tag got.
    """
    stored = _stored(standin.requests)
    tried = _tried(standin.requests)
    count = 0
    for repository in standin.state.repositories.values():
        for image in repository.images.values():
            count += 1
            _check_image(standin, repository, image)
            needed = {*image.facts.blobs, *image.facts.children} - set(seeded)
            for digest in needed:
                at = stored[repository.name, digest]
                begun = tried[repository.name, image.digest]
                assert at < begun, f"{image.digest} was put before its {digest} was there"
    return count


def _check_image(standin: StandIn, repository: Repository, image: Image) -> None:
    for child in image.facts.children:
        assert child in repository.images, f"{image.digest} names {child}, which is not there"
    for digest in image.facts.blobs:
        assert digest in repository.blobs, f"{image.digest} names {digest}, which is not there"
        content = standin.state.files.path_of(Digest(digest)).read_bytes()
        assert Digest.of(content) == digest


def _stored(requests: Iterable[Recorded]) -> dict[tuple[str, str], int]:
    """When what is stored in a repository was answered with its 201 first, or would have been."""
    found: dict[tuple[str, str], int] = {}
    for each in requests:
        match = _REPOSITORY.match(each.path)
        if each.stored and match and each.ended is not None:
            key = match["name"], each.stored
            found[key] = min(each.ended, found.get(key, each.ended))
    return found


def _tried(requests: Iterable[Recorded]) -> dict[tuple[str, str], int]:
    """When the first PUT of each manifest arrived."""
    first: dict[str, int] = {}  # by path
    found: dict[tuple[str, str], int] = {}
    for each in requests:
        match = _MANIFEST.match(each.path)
        if match is None or each.method != "PUT":
            continue
        begun = first.setdefault(each.path, each.number)
        if each.stored:
            key = match["name"], each.stored
            found[key] = min(begun, found.get(key, begun))
    return found
