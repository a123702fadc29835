"""Challenges and Basic credentials."""

from __future__ import annotations

import pytest

from proxy.upstream.auth import BearerChallenge, basic, parse_bearer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"'],
            BearerChallenge("https://public.ecr.aws/token/", "public.ecr.aws", "aws"),
        ),
        (
            ['bearer service = registry, realm = "http://h/t" , scope="repository:a/b:pull,push"'],
            BearerChallenge("http://h/t", "registry", "repository:a/b:pull,push"),
        ),
        (
            ['Basic realm="x"', 'Bearer realm="https://h/t"'],
            BearerChallenge("https://h/t", "", ""),
        ),
        (
            ['Bearer realm="https://h/t",service="s", Basic realm="other"'],
            BearerChallenge("https://h/t", "s", ""),
        ),
        (
            ['Basic realm="a, b", Bearer realm="https://h/t"'],
            BearerChallenge("https://h/t", "", ""),
        ),
        (['Bearer realm="a\\"b"'], BearerChallenge('a"b', "", "")),
        (['Basic realm="https://h/",service="ecr.amazonaws.com"'], None),
        (["Bearer"], None),
        (['Bearer service="x"'], None),
        ([""], None),
        ([], None),
    ],
)
def test_bearer_challenge(headers: list[str], expected: BearerChallenge | None) -> None:
    assert parse_bearer(headers) == expected


def test_a_long_challenge_is_read_once() -> None:
    """It would take hours if each letter of a word without a value began another attempt."""
    assert parse_bearer(["Bearer x=y, " + "a" * 2_000_000]) is None


def test_basic() -> None:
    assert basic("AWS", "pä:ss") == "Basic QVdTOnDDpDpzcw=="
    with pytest.raises(ValueError, match="colon"):
        basic("a:b", "c")
