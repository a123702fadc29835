"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sizes import Share, format_size, parse_duration, parse_share, parse_size

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("0", 0),
        ("20GiB", 20 * GIB),
        ("20gib", 20 * GIB),
        ("20 GiB", 20 * GIB),
        (" 20GiB ", 20 * GIB),
        ("500MB", 500_000_000),
        ("500M", 500 * 1024**2),
        ("64k", 65536),
        ("1.5TiB", 3 * GIB * 512),
        ("0.5kB", 500),
        ("7b", 7),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e3", "20XB", "20iB", "1.GiB", ".5G", "20GiB!", "1 2", "٣", "nan"]
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no size") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 400 + ".5", "9" * 400 + "GiB"])
def test_a_size_beyond_all_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too large a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 400, "9" * 400 + "s"])
def test_a_duration_beyond_all_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too long a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("30", 30),
        ("0", 0),
        ("2m", 120),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1d", 86400),
    ],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-3s", "3 s", "3x", "30s2", "1e2s", "inf"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (20 * GIB, "20.0 GiB"),
        (5000 * GIB, "4.9 TiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=1024**5))
def test_a_size_that_is_shown_is_a_size_that_can_be_written(size: int) -> None:
    shown = parse_size(format_size(size))
    assert abs(shown - size) <= max(size * 0.06, 1)


@pytest.mark.parametrize(
    ("text", "share", "of_a_thousand"),
    [
        ("5%", Share(fraction=0.05), 50),
        ("0.5 %", Share(fraction=0.005), 5),
        ("100%", Share(fraction=1), 1000),
        ("64k", Share(size=65536), 65536),
        ("0", Share(), 0),
    ],
)
def test_a_share_is_a_percentage_or_a_size(text: str, share: Share, of_a_thousand: int) -> None:
    assert parse_share(text) == share
    assert parse_share(text).of(1000) == of_a_thousand


@pytest.mark.parametrize(("text", "why"), [("101%", "more than the whole"), ("%", "no size")])
def test_what_is_no_share_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_share(text)
