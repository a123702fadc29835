"""What is on disk of a tag is believed only if this program can have written it."""

from __future__ import annotations

import pytest

from proxy.oci import OCI_INDEX, Digest
from proxy.services.tags import Pointer, _Heard

DIGEST = Digest.of(b"manifest")


def test_what_was_heard_is_read_again() -> None:
    heard = _Heard(Pointer(DIGEST, OCI_INDEX, 10), 1.5e9)
    assert _Heard.load(heard.dump()) == heard


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{}",
        "[]",
        "[1, 2, 3, 4]",
        f'["{DIGEST}", "x", 10, {"9" * 400}]',
        f'["{DIGEST}", "x", Infinity, 0]',
        f'["{DIGEST}", "x", {"9" * 5000}, 0]',
        "[" * 100_000,
    ],
)
def test_what_nobody_wrote_is_refused(record: str) -> None:
    with pytest.raises(ValueError, match="says of no tag"):
        _Heard.load(record.encode())
