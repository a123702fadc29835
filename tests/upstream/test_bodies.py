"""Bodies of refusals, which may repeat what they refuse."""

from __future__ import annotations

import pytest

from proxy.upstream.auth import basic
from proxy.upstream.bodies import conceal

PASSWORD = 'pass/"word\\+='


@pytest.mark.parametrize(
    ("authorization", "body", "expected"),
    [
        (basic("me", PASSWORD), f"no {basic('me', PASSWORD)} here", "no Basic (credentials) here"),
        (basic("me", PASSWORD), f"no me:{PASSWORD} here", "no me:(credentials) here"),
        (basic("me", PASSWORD), '"no pass/\\"word\\\\+= here"', '"no (credentials) here"'),
        (basic("me", "a"), "a word as any", "a word as any"),
        ("Bearer a.token", "no a.token here", "no (credentials) here"),
        ("Basic ????", "no ???? here", "no (credentials) here"),
        ("Basic", "no Basic here", "no Basic here"),
        (None, "nothing was sent", "nothing was sent"),
    ],
)
def test_credentials_that_a_refusal_repeats_are_taken_out(
    authorization: str | None, body: str, expected: str
) -> None:
    assert conceal(body.encode(), authorization).decode() == expected
