"""Where a Location leads, and whether we go there."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.errors import BadGateway
from proxy.upstream.locations import Destinations, is_loopback, resolve

BASE = "https://registry.example:5000/v2/app/blobs/uploads/?mount=x"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (
            "https://s3.example/a//b/../c%2Fd?X=%2f+%20&&y=",
            "https://s3.example/a//b/../c%2Fd?X=%2f+%20&&y=",
        ),
        ("HTTPS://S3.Example/x", "HTTPS://S3.Example/x"),
        ("//other.example/x?y", "https://other.example/x?y"),
        ("/v2/app/x?_state=a%3D%3D", "https://registry.example:5000/v2/app/x?_state=a%3D%3D"),
        ("uuid?state=1", "https://registry.example:5000/v2/app/blobs/uploads/uuid?state=1"),
        ("?state=1", "https://registry.example:5000/v2/app/blobs/uploads/?state=1"),
        ("/x#part", "https://registry.example:5000/x"),
    ],
)
def test_location_is_resolved_byte_for_byte(location: str, expected: str) -> None:
    assert resolve(location, base=BASE) == expected


def test_location_against_a_bare_origin() -> None:
    assert resolve("x", base="http://h") == "http://h/x"
    assert resolve("/x", base="http://h?a=/b") == "http://h/x"


@pytest.mark.parametrize(
    "location",
    [
        "https://h/a b",
        "https://h/a\r\nX: y",
        "https://h/ä",
        "https://user:secret@h/x",
        "https://user@h/x",
        "https://h:99999/x",
        "",
    ],
)
def test_what_is_no_url_is_refused(location: str) -> None:
    with pytest.raises(BadGateway, match="no URL"):
        resolve(location, base=BASE)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://registry.example/v2/", True),
        ("https://registry.example:443/v2/", True),
        ("https://Registry.Example/v2/", True),
        ("http://registry.example/v2/", False),
        ("https://registry.example:444/v2/", False),
        ("https://registry.example.evil/v2/", False),
        ("https://s3.amazonaws.com/x", False),
    ],
)
def test_credentials_stay_with_scheme_host_and_port(url: str, expected: bool) -> None:
    places = Destinations(URL("https://registry.example"), ("*.amazonaws.com",))
    assert places.takes_credentials(URL(url, encoded=True)) is expected


@pytest.mark.parametrize(
    ("base", "patterns", "location"),
    [
        ("https://r.example", (), "https://r.example:8443/x"),
        ("https://r.example", ("*.amazonaws.com",), "https://b.s3.eu-west-1.amazonaws.com/x"),
        ("https://r.example", ("CDN.example",), "https://cdn.EXAMPLE/x"),
        ("http://r.example", (), "https://r.example/x"),
        ("http://127.0.0.1:5000", (), "http://localhost:9000/x"),
        ("http://localhost:5000", (), "http://127.0.0.2:9000/x"),
        ("http://[::1]:5000", (), "http://127.0.0.1/x"),
    ],
)
def test_allowed_destinations(base: str, patterns: tuple[str, ...], location: str) -> None:
    url = Destinations(URL(base), patterns).check(location)
    assert str(url) == location


@pytest.mark.parametrize(
    ("base", "patterns", "location", "words"),
    [
        ("https://r.example", ("*",), "http://r.example/x", "https to http"),
        ("https://r.example", (), "https://cdn.example/x", "redirect-hosts"),
        ("https://r.example", ("*.amazonaws.com",), "https://amazonaws.com.evil/x", "evil"),
        ("https://r.example", ("*.amazonaws.com",), "https://evilamazonaws.com/x", "evil"),
        ("https://r.example", (), "https://127.0.0.1/x", r"127\.0\.0\.1"),
        ("https://r.example", (), "https://169.254.169.254/latest", "169"),
        ("http://127.0.0.1:5000", (), "http://10.0.0.1/x", r"10\.0\.0\.1"),
    ],
)
def test_refused_destinations(
    base: str, patterns: tuple[str, ...], location: str, words: str
) -> None:
    with pytest.raises(BadGateway, match=words):
        Destinations(URL(base), patterns).check(location)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.8.8.8", True), ("::1", True), ("10.0.0.1", False), ("x", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
