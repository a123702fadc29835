"""Numbers in what upstream says. Pure."""

from __future__ import annotations

from typing import Final

# 64 bits have no more. Python takes text of any length for a float, which infinity is, and refuses
# to make an int of more than 4300 digits; a header has room for either.
_MOST_DIGITS: Final = 19


def read_number(text: str | None) -> int | None:
    """A number of nothing but digits; None for anything else, or for more than 19 of them."""
    digits = (text or "").strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    return int(digits)
