"""Where a Location leads, and whether we go there."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.errors import BadGateway
from proxy.upstream.addresses import is_loopback
from proxy.upstream.locations import Destinations, HostPattern, resolve

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
        "https://:secret@h/x",
        "https://@h/x",
        "https://s3.amazonaws.com\\@evil.example/x",
        "https://evil.example\\.s3.amazonaws.com/x",
        "https://evil.example%2f.s3.amazonaws.com/x",
        "https://evil.example;.s3.amazonaws.com/x",
        "https://s3.amazonaws.com./x",
        "https://s3..amazonaws.com/x",
        "https://.s3.amazonaws.com/x",
        "https://2852039166/latest",
        "https://0xa9fea9fe/latest",
        "https://0251.0376.0251.0376/latest",
        "https://169.254.43518/latest",
        "https://[fe80::1%25eth0]/x",
        "ftp://h/x",
    ],
)
def test_what_is_no_url_is_refused(location: str) -> None:
    with pytest.raises(BadGateway, match="no URL"):
        resolve(location, base=BASE)


def test_what_a_url_is_signed_with_stays_out_of_the_error() -> None:
    signed = "https://user:password@s3.example/x y?X-Amz-Signature=deadbeef"
    with pytest.raises(BadGateway) as raised:
        resolve(signed, base="https://s3.example/old?X-Amz-Signature=cafe")
    told = raised.value.message
    assert "s3.example/old" in told
    assert not [word for word in ("deadbeef", "cafe", "password") if word in told]


@pytest.mark.parametrize(
    ("location", "fine"),
    [
        ("https://registry.example/v2/app/blobs/uploads/1", True),
        ("https://REGISTRY.example:443/v2/app/blobs/uploads/1", True),
        ("https://registry.example:8443/v2/app/blobs/uploads/1", False),
        ("https://s3.example/x", True),
        ("https://evil.example/x", False),
    ],
)
def test_uploads_go_to_the_registrys_own_origin_or_where_it_is_allowed(
    location: str, fine: bool
) -> None:
    places = Destinations(URL("https://registry.example"), ("s3.example",))
    if fine:
        assert places.check(location, uploads=True).path == URL(location).path
        return
    with pytest.raises(BadGateway, match="redirect-hosts"):
        places.check(location, uploads=True)


def test_an_upload_does_not_go_to_another_port_of_loopback() -> None:
    places = Destinations(URL("http://127.0.0.1:5000"), ())
    with pytest.raises(BadGateway, match="wants uploads sent"):
        places.check("http://127.0.0.1:6000/x", uploads=True)


@pytest.mark.parametrize(
    "pattern",
    ["*", "a.*", "a b", "", "*.", ".a", "a..b", "https://a", "a:b", "a?", "[ab].c", "é.fr"],
)
def test_what_is_no_pattern_of_hosts_is_told(pattern: str) -> None:
    with pytest.raises(ValueError, match="redirect-hosts"):
        HostPattern(pattern)


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
        ("https://r.example", ("*.cdn.example",), "https://a.b.cdn.example/x"),
        ("https://r.example", ("a*.cdn.example",), "https://ab.cdn.example/x"),
        ("https://r.example", ("minio.lan:9000",), "https://minio.lan:9000/x"),
        ("https://r.example", ("10.1.2.3",), "https://10.1.2.3/x"),
        ("https://r.example", ("[fd12::1]:9000",), "https://[fd12::1]:9000/x"),
        ("https://r.example", ("fd12::1",), "https://[fd12::1]/x"),
        ("http://r.example", ("minio:9000",), "http://minio:9000/x"),
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
        ("https://r.example", ("r.example",), "http://r.example/x", "https to http"),
        ("https://r.example", (), "https://cdn.example/x", "redirect-hosts"),
        ("https://r.example", ("*.amazonaws.com",), "https://amazonaws.com.evil/x", "evil"),
        ("https://r.example", ("*.amazonaws.com",), "https://evilamazonaws.com/x", "evil"),
        ("https://r.example", (), "https://127.0.0.1/x", r"127\.0\.0\.1"),
        ("https://r.example", (), "https://169.254.169.254/latest", "169"),
        ("http://127.0.0.1:5000", (), "http://10.0.0.1/x", r"10\.0\.0\.1"),
        ("https://r.example", ("*.cdn.example",), "https://cdn.example/x", "redirect-hosts"),
        ("https://r.example", ("*.cdn.example",), "https://a.cdn.example:8443/x", "example:8443"),
        ("https://r.example", ("a*.cdn.example",), "https://a.b.cdn.example/x", "not allowed"),
        ("https://r.example", ("fe80::1",), "https://[fe80::1]/x", "link-local"),
        ("https://r.example", ("169.254.169.254",), "https://169.254.169.254/x", "metadata"),
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
