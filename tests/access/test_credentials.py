"""The Authorization header."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.credentials import (
    Credentials,
    CredentialsMalformed,
    fingerprint,
    parse_authorization,
)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        ("Basic " + b64(b"alice:secret"), Credentials("alice", b"secret")),
        ("bASIC   " + b64(b"alice:secret") + " ", Credentials("alice", b"secret")),
        ("Basic " + b64(b"alice:a:b:c"), Credentials("alice", b"a:b:c")),
        ("Basic " + b64(b"alice:"), Credentials("alice", b"")),
        ("Basic " + b64(b":secret"), Credentials("", b"secret")),
        ("Basic " + b64("jürgen:pässwörd".encode()), Credentials("jürgen", "pässwörd".encode())),
        ("Basic " + b64(b"alice:secre").rstrip("="), Credentials("alice", b"secre")),
        ("Bearer ecp_abc", Credentials(None, b"ecp_abc")),
        ("bearer \udcff", Credentials(None, b"\xff")),
    ],
)
def test_basic_and_bearer_are_read(header: str, credentials: Credentials) -> None:
    assert parse_authorization(header) == credentials


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", "neither Basic nor Bearer"),
        ("Basic", "no colon"),
        ("Basic ", "no colon"),
        ("Basic !!!!", "no base64"),
        ("Basic é", "no base64"),
        ("Basic a", "no base64"),
        ("Basic " + b64(b"alice"), "no colon"),
        ("Basic " + b64(b"\xff:secret"), "no UTF-8"),
        ("Basic " + b64(b"alice:\xff"), "no UTF-8"),
        ("Basic " + b64(b"a:b") + ", Basic " + b64(b"c:d"), "no base64"),
        ("Bearer", "without a token"),
        ("Bearer  ", "without a token"),
        ("Digest username=alice", "neither Basic nor Bearer"),
        ("Negotiate abc", "neither Basic nor Bearer"),
        ("Basic " + "A" * 20_000, "longer than any"),
    ],
)
def test_what_holds_no_credentials_says_why(header: str, told: str) -> None:
    with pytest.raises(CredentialsMalformed, match=told):
        parse_authorization(header)


@given(st.one_of(st.text(), st.builds("Basic {}".format, st.text()), st.binary().map(b64)))
def test_no_header_raises_anything_else(header: str) -> None:
    with suppress(CredentialsMalformed):
        parse_authorization(header)


def test_a_secret_is_not_shown_by_repr() -> None:
    assert "secret" not in repr(Credentials("alice", b"secret"))


def test_fingerprints_tell_parts_and_keys_apart() -> None:
    assert fingerprint(b"k", b"ab", b"c") != fingerprint(b"k", b"a", b"bc")
    assert fingerprint(b"k", b"a") != fingerprint(b"l", b"a")
    assert fingerprint(b"k", b"a") == fingerprint(b"k", b"a")
