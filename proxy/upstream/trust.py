"""Whose certificates are trusted upstream: the system's, and those of a file that adds to them.

There is no way to trust everybody. For aiohttp a context; for botocore, which takes a file in place
of its own certificates, a file that has both.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import IO


class Trust:
    """What is trusted beside the system's certificates; nothing without a file."""

    def __init__(self, bundle: bytes = b"") -> None:
        self._bundle = bundle

    @classmethod
    def read(cls, path: Path) -> Trust:
        """Raises `ValueError` with a sentence for a file that holds no certificates."""
        try:
            bundle = path.read_bytes()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=_text(bundle))
        except OSError as error:
            # OpenSSL's errors are of this kind, too.
            why = "it holds no certificates in PEM" if isinstance(error, ssl.SSLError) else None
            raise ValueError(f"cannot use {path}: {why or error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"cannot use {path}: it holds no certificates in PEM") from error
        return cls(bundle)

    def context(self, identity: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """A context that verifies; `identity` is a certificate and its key, for who asks for one.

        The system's certificates are those of this moment (`SSL_CERT_FILE`). Raises `ValueError`.
        """
        context = ssl.create_default_context()
        if self._bundle:
            context.load_verify_locations(cadata=_text(self._bundle))
        if identity is not None:
            try:
                # An empty password, since OpenSSL would ask for one on the terminal.
                context.load_cert_chain(*identity, password=b"")
            except OSError as error:
                cert, key = identity
                why = error.strerror or str(error)
                if isinstance(error, ssl.SSLError):
                    why = "no certificate and its own unencrypted key in PEM"
                raise ValueError(f"cannot use {cert} with {key}: {why}") from error
        return context

    @property
    def adds(self) -> bool:
        """Whether anything is trusted that the system does not."""
        return bool(self._bundle)

    def file_with(self, others: Path) -> TrustFile:
        """The certificates of another file and these, in one; raises `OSError`."""
        return TrustFile(others.read_bytes() + b"\n" + self._bundle)


def _text(bundle: bytes) -> str:
    """PEM as `ssl` takes it, which is ASCII; the names above each certificate often are not."""
    return bundle.decode("ascii", "ignore")


class TrustFile:
    """A file in memory, by a path that this process can open. It takes no writable disk. Close it.

    Where the system has none, a temporary file stands in.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._file: IO[bytes] = os.fdopen(os.memfd_create("ca-bundle", os.MFD_CLOEXEC), "wb")
            self.path = f"/proc/self/fd/{self._file.fileno()}"
        except (AttributeError, OSError):  # no Linux, or a filter of system calls
            named = tempfile.NamedTemporaryFile(prefix="ca-bundle-")  # noqa: SIM115
            self._file, self.path = named, named.name  # removed as it is closed
        self._file.write(content)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
