"""Replies as they are made, whatever is to be in them."""

from __future__ import annotations

import pytest
from aiohttp import web

from proxy.handlers.replies import head_reply, reply

WORDS = {"Retry-After": "1\x00", "OCI-Subject": "a\r\nX-Injected: b", "OCI-Tag": "\x01é\ud800"}


@pytest.mark.parametrize("made", [reply(headers=WORDS), head_reply(1, WORDS)])
def test_no_header_has_what_may_not_stand_in_one(made: web.Response) -> None:
    assert made.headers["Retry-After"] == "1"
    assert made.headers["OCI-Subject"] == "a  X-Injected: b"
    assert made.headers["OCI-Tag"] == "é"


def test_a_content_type_is_a_header_too() -> None:
    assert reply(body=b"x", content_type="a/b\x7f").headers["Content-Type"] == "a/b"
