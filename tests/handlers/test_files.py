"""What an error of sending a file says, of the file or of the client."""

from __future__ import annotations

import errno

import pytest

from proxy.handlers.files import is_the_clients


@pytest.mark.parametrize(
    "code",
    [
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,  # a machine that was switched off, as its neighbours find out
        errno.ENETUNREACH,
        errno.ENETDOWN,
    ],
)
def test_a_client_that_cannot_be_reached_is_no_fault_of_the_file(code: int) -> None:
    assert is_the_clients(OSError(code, "as the kernel says it"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EBADMSG, errno.EUCLEAN])
def test_a_file_that_cannot_be_read_is_no_fault_of_the_client(code: int) -> None:
    assert not is_the_clients(OSError(code, "as the kernel says it"))
