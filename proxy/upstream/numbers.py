"""Numbers in what upstream says. Pure."""

from __future__ import annotations

from typing import Final

# No size or time is more, and none that is would fit where sizes are kept. Python takes text of any
# length for a float, which infinity is, and refuses to make an int of more than 4300 digits; a
# header has room for either.
_MOST: Final = 2**63 - 1
_MOST_DIGITS: Final = 19


def read_number(text: str | None) -> int | None:
    """A number of nothing but digits; None for anything else, or for one beyond 63 bits."""
    digits = (text or "").strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    number = int(digits)
    return number if number <= _MOST else None
