"""Range and Content-Range, against RFC 9110 §14."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BlobUploadInvalid, RangeInvalid
from proxy.handlers.ranges import Range, parse_chunk


@pytest.mark.parametrize(
    ("header", "total", "span"),
    [
        ("bytes=0-", 10, (0, 10)),
        ("bytes=3-", 10, (3, 10)),
        ("bytes=3-5", 10, (3, 6)),
        ("bytes=3-3", 10, (3, 4)),
        ("bytes=3-99", 10, (3, 10)),
        ("bytes=-4", 10, (6, 10)),
        ("bytes=-40", 10, (0, 10)),
        ("Bytes=1-2", 10, (1, 3)),
    ],
)
def test_a_range_resolves_within_the_blob(header: str, total: int, span: tuple[int, int]) -> None:
    wanted = Range.parse(header)
    assert wanted is not None
    assert wanted.resolve(total) == span


@pytest.mark.parametrize(
    ("header", "total"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=5-3", 10)]
)
def test_a_range_without_a_byte_of_the_blob_is_a_416(header: str, total: int) -> None:
    wanted = Range.parse(header)
    assert wanted is not None
    with pytest.raises(RangeInvalid) as caught:
        wanted.resolve(total)
    assert caught.value.wire_status == 416
    assert caught.value.headers == {"Content-Range": f"bytes */{total}"}


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes=", "bytes=-", "bytes=0-1,4-5", "items=0-1", "bytes=a-b", "0-1"],
)
def test_what_a_server_may_ignore_is_answered_whole(header: str | None) -> None:
    assert Range.parse(header) is None


@given(header=st.text(), total=st.integers(0, 1 << 40))
def test_any_header_is_a_range_within_the_blob_or_none(header: str, total: int) -> None:
    wanted = Range.parse("bytes=" + header)
    if wanted is None:
        return
    try:
        first, end = wanted.resolve(total)
    except RangeInvalid:
        return
    assert 0 <= first < end <= total


@pytest.mark.parametrize(
    ("header", "length", "offset"),
    [
        (None, 5, None),
        ("0-4", 5, 0),
        ("5-9", None, 5),
        ("bytes 5-9/*", 5, 5),
        ("bytes 0-0/1", 1, 0),
    ],
)
def test_a_chunk_says_where_it_begins(
    header: str | None, length: int | None, offset: int | None
) -> None:
    assert parse_chunk(header, length) == offset


@pytest.mark.parametrize(
    ("header", "length"), [("0-4", 6), ("4-0", None), ("0-", 5), ("-5", 5), ("x", 1), ("", 1)]
)
def test_a_chunk_range_that_does_not_fit_is_refused(header: str, length: int | None) -> None:
    with pytest.raises(BlobUploadInvalid):
        parse_chunk(header, length)
