"""The grammars of the specifications, and errors that are fit for the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BlobUnknown, UpstreamRefusal
from proxy.oci import Descriptor, Digest, RepositoryName, Tag, parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
def test_digests_of_the_registered_algorithms_are_read(text: str) -> None:
    digest = Digest.parse(text)
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", f"sha256:{HEX}0", f"sha512:{HEX}", f"SHA256:{HEX}", f"md5:{HEX}", f"{HEX}",
     f"sha256:{HEX[:-1]}G", f"sha256:{HEX}\n", f" sha256:{HEX}", "sha256:" + "٠" * 64],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no digest"):
        Digest.parse(text)


@pytest.mark.parametrize("text", ["a", "a/b", "a-b", "a--b", "a__b", "a.b/c_d", "0", "a" * 256])
def test_names_of_the_grammar_are_read(text: str) -> None:
    assert RepositoryName.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "a/",
        "/a",
        "a//b",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "a b",
        "a\n",
        "../a",
        "é",
        "a" * 257,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="repository name"):
        RepositoryName.parse(text)


@pytest.mark.parametrize("text", ["", ".a", "-a", "a" * 129, "a/b", "a+b", "é", "a\n"])
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no tag"):
        Tag.parse(text)


@given(content=st.binary(), algorithm=st.sampled_from(["sha256", "sha512"]))
def test_a_digest_names_its_bytes(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert parse_reference(digest) == digest
    assert digest.matches(content)
    assert not digest.matches(content + b"x")
    hasher = digest.hasher()
    hasher.update(content)
    assert Digest.of_hash(hasher) == digest


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"mediaType": "t"}, {"mediaType": "t", "digest": "x", "size": 1},
     {"mediaType": "t", "digest": f"sha256:{HEX}"},
     {"mediaType": "t", "digest": f"sha256:{HEX}", "size": -1},
     {"mediaType": "t", "digest": f"sha256:{HEX}", "size": True},
     {"mediaType": "t", "digest": f"sha256:{HEX}", "size": 1, "annotations": []},
     {"mediaType": "t", "digest": f"sha256:{HEX}", "size": 1, "annotations": 5}],
)  # fmt: skip
def test_what_is_no_descriptor_is_refused(value: object) -> None:
    if isinstance(value, dict) and value.get("annotations") == []:
        # An empty list is what some writers make of an empty map.
        assert Descriptor.parse(value).annotations == {}
        return
    with pytest.raises(ValueError):  # noqa: PT011 the words differ by row
        Descriptor.parse(value)


def test_an_error_renders_as_the_registry_does() -> None:
    error = BlobUnknown("no blob «x»")
    assert json.loads(error.body()) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "no blob «x»"}]
    }
    refusal = UpstreamRefusal("odd", code="ODD", status=418)
    assert (refusal.wire_code, refusal.wire_status) == ("ODD", 418)


@given(st.text())
def test_a_reason_is_always_one_line_that_a_header_can_carry(text: str) -> None:
    reason = BlobUnknown(text).reason()
    assert reason.isascii()
    assert reason.isprintable()
    assert len(reason) <= 1000
