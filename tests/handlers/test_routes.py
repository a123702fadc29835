"""The paths of the registry API, by the spec's grammar."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RegistryError
from proxy.handlers.routes import METHODS, Noun, Route, parse
from proxy.oci import Digest, Tag

D = Digest.of(b"x")
D512 = Digest.of(b"x", "sha512")


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v2/", Route(Noun.PING)),
        ("GET", "/v2", Route(Noun.PING)),
        ("GET", "/v2/_catalog", Route(Noun.CATALOG)),
        ("GET", "/v2/a/b/tags/list", Route(Noun.TAGS, "a/b")),
        ("HEAD", "/v2/a/manifests/latest", Route(Noun.MANIFEST, "a", reference=Tag("latest"))),
        ("PUT", f"/v2/a/manifests/{D512}", Route(Noun.MANIFEST, "a", reference=D512)),
        ("GET", f"/v2/a/blobs/{D}", Route(Noun.BLOB, "a", digest=D)),
        ("POST", "/v2/a/blobs/uploads/", Route(Noun.UPLOADS, "a")),
        ("POST", "/v2/a/blobs/uploads", Route(Noun.UPLOADS, "a")),
        ("PATCH", "/v2/a/blobs/uploads/tok", Route(Noun.UPLOAD, "a", token="tok")),
        ("GET", f"/v2/a/referrers/{D}", Route(Noun.REFERRERS, "a", digest=D)),
        # A repository may be called like a part of the API.
        ("GET", "/v2/manifests/manifests/t", Route(Noun.MANIFEST, "manifests", Tag("t"))),
        ("GET", "/v2/blobs/uploads/tags/list", Route(Noun.TAGS, "blobs/uploads")),
        ("GET", f"/v2/tags/list/blobs/{D}", Route(Noun.BLOB, "tags/list", digest=D)),
        ("GET", "/v2/123456789012.dkr.ecr.eu-west-1.amazonaws.com/a/tags/list",
         Route(Noun.TAGS, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a")),
    ],
)  # fmt: skip
def test_a_path_is_parsed_once_into_a_route(method: str, path: str, route: Route) -> None:
    assert parse(method, path) == route


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("GET", "/v2/a/blobs/sha256:abc", "DIGEST_INVALID", 400),
        ("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "DIGEST_INVALID", 400),
        ("GET", f"/v2/a/blobs/{str(D).upper()}", "DIGEST_INVALID", 400),
        ("GET", "/v2/a/manifests/sha256:abc", "DIGEST_INVALID", 400),
        ("PUT", "/v2/a/manifests/.hidden", "TAG_INVALID", 400),
        ("PUT", "/v2/a/manifests/" + "t" * 129, "TAG_INVALID", 400),
        ("GET", "/v2/a/manifests/.hidden", "MANIFEST_UNKNOWN", 404),
        ("GET", "/v2/a/manifests/a+b", "MANIFEST_UNKNOWN", 404),
        ("PATCH", "/v2/a/manifests/latest", "UNSUPPORTED", 405),
        ("PUT", f"/v2/a/blobs/{D}", "UNSUPPORTED", 405),
        ("DELETE", "/v2/_catalog", "UNSUPPORTED", 405),
        ("GET", "/v2/a", "UNSUPPORTED", 404),
        ("GET", "/v2/manifests/latest", "UNSUPPORTED", 404),
        ("GET", "/v1/a/tags/list", "UNSUPPORTED", 404),
    ],
)
def test_what_is_no_route_gets_the_code_of_the_spec(
    method: str, path: str, code: str, status: int
) -> None:
    with pytest.raises(RegistryError) as caught:
        parse(method, path)
    assert (caught.value.wire_code, caught.value.wire_status) == (code, status)


@given(
    method=st.sampled_from(sorted({m for methods in METHODS.values() for m in methods})),
    path=st.one_of(st.text(), st.builds("/v2/{}".format, st.text(alphabet="ab/.:%\n\0éA-_"))),
)
def test_no_path_raises_anything_but_an_error_of_the_registry(method: str, path: str) -> None:
    with suppress(RegistryError):
        parse(method, path)
