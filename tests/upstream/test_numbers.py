"""Numbers in what upstream says."""

from __future__ import annotations

import pytest

from proxy.upstream.numbers import read_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        (" 12 ", 12),
        (str(2**63 - 1), 2**63 - 1),
        # More is no size that could be kept: such a length answered a HEAD with 500.
        (str(2**63), None),
        ("9" * 19, None),
        ("9" * 5000, None),
        ("-1", None),
        ("1e3", None),
        ("٣", None),
        ("*", None),
        ("", None),
        (None, None),
    ],
)
def test_a_number_is_read_as_far_as_it_can_be_one(text: str | None, number: int | None) -> None:
    assert read_number(text) == number
