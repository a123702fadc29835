"""The scanner finds each canary in each encoding, and nothing in what has none."""

from __future__ import annotations

import base64
import os
from urllib.parse import quote

import pytest

from proxy.standin import StandIn
from proxy.standin.settings import MARK
from tests.canaries.encodings import forms
from tests.canaries.scanner import OVERLAP, UNKNOWN, Found, Scanner
from tests.canaries.values import CANARIES, TOKEN_MARK, Canary

SCANNER = Scanner(CANARIES)


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_every_encoding_of_every_canary_is_found_and_named(canary: Canary) -> None:
    for encoding, form in forms(canary.value):
        found = SCANNER.find(b"before " + form + b" after")
        assert canary.name in {each.canary for each in found}, encoding
        # None is taken for another one.
        assert {each.canary for each in found} == {canary.name}, encoding


@pytest.mark.parametrize("before", ["", "a", "ab", "AWS:", "client:", "someone:"])
@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_a_canary_within_what_is_encoded_is_found_wherever_it_begins(
    canary: Canary, before: str
) -> None:
    whole = f"{before}{canary.value} and more".encode()
    for encoded in (
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
        quote(base64.b64encode(whole)).encode(),
        base64.b64encode(b"Basic " + base64.b64encode(whole)),
        quote(whole).encode(),
        quote(quote(whole)).encode(),
        whole.hex().encode(),
    ):
        assert canary.name in {each.canary for each in SCANNER.find(encoded)}, encoded


def test_canaries_are_distinct_and_their_cores_are_left_alone_by_escapes() -> None:
    cores = [canary.core for canary in CANARIES]
    assert len(set(map(str.lower, cores))) == len(cores)
    assert all(core.isalnum() and core.isascii() for core in cores)


def test_a_part_that_could_be_of_any_is_found_too() -> None:
    [found] = SCANNER.find(f"…{MARK}…".encode())
    assert found.canary == UNKNOWN
    [found] = SCANNER.find(f"…{TOKEN_MARK}…".encode())
    assert found.canary == UNKNOWN


def test_nothing_is_found_where_nothing_is() -> None:
    texts = [os.urandom(1 << 20), os.urandom(1 << 20).hex().encode(), b"a secret, not canary " * 99]
    assert [SCANNER.find(text) for text in texts] == [[], [], []]


def test_no_form_of_a_mark_is_longer_than_what_is_kept_of_a_stream() -> None:
    assert all(len(form) < OVERLAP for mark in (MARK, TOKEN_MARK) for _, form in forms(mark))


def test_what_is_shown_of_a_leak_has_no_secret_in_it() -> None:
    for canary in CANARIES:
        for encoding, form in forms(canary.value):
            shown = SCANNER.hide(f"GET /?a={form.decode()} failed")
            assert not SCANNER.find(shown.encode()), encoding
            assert shown.startswith("GET /?a="), encoding


def test_a_secret_that_is_made_in_a_test_can_be_looked_for() -> None:
    scanner = Scanner(CANARIES)
    canary = Canary("private key", "MIGHAgEAMBMGByqGSM49/AgEGCCqGSM+49AwEHBG0wawIBAQQg")
    scanner.plant(canary)
    assert scanner.find(b"key: " + canary.value.encode()) == [Found("private key", "raw")]
    assert scanner.find(base64.b64encode(canary.value.encode()))
    assert "MIGH" not in scanner.hide(f"key: {canary.value}")
    scanner.uproot(canary)
    assert not scanner.find(canary.value.encode())


async def test_what_the_stand_in_issues_are_canaries() -> None:
    async with StandIn() as standin:
        password = standin.password
        state, account = standin.state, standin.settings.account
        arn = f"arn:aws:iam::{account}:role/r"
        state.principals.add_role(arn)
        role = state.principals.assume(state.principals.user, arn, session="s", external_id=None)
        url = standin.presigner.sign("s3", "/blob", state.clock.stamp())

    def names(*texts: str | None) -> set[str]:
        return {each.canary for text in texts if text for each in SCANNER.find(text.encode())}

    assert names(password) == {"ECR token"}
    assert names(base64.b64encode(f"AWS:{password}".encode()).decode()) == {"ECR token"}
    assert names(role.id) == {"role's access key id"}
    assert names(role.secret) == {"role's secret access key"}
    assert names(role.session_token) == {"session token"}
    assert names(standin.access_key_id, standin.secret_access_key) == {
        "AWS access key id",
        "AWS secret access key",
    }
    assert names(url) == {
        "presigned URL's key id",
        "presigned URL's session token",
        "presigned URL's signature",
    }
