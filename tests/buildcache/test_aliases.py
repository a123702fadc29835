"""The record of a client's digest."""

from __future__ import annotations

import pytest

from proxy.buildcache import Alias, Form
from proxy.oci import Digest


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_alias_is_read_as_it_was_written(form: Form, algorithm: str) -> None:
    alias = Alias(Digest.of(b"x", algorithm), form)
    assert Alias.load(alias.dump()) == alias


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"stored":"sha256:x","form":"index"}',
        b'{"stored":1,"form":"index"}',
        Alias(Digest.of(b"x"), Form.OCI_INDEX).dump().replace(b'"index"', b'"other"'),
    ],
)
def test_anything_else_is_no_alias(content: bytes) -> None:
    with pytest.raises(ValueError, match="no alias"):
        Alias.load(content)
