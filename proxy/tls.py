"""How the proxy speaks TLS to clients: a context made from files, and made anew when they change.

A leaf: it knows files and `ssl`, and neither HTTP nor asyncio.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from weakref import WeakSet

from cryptography import x509

from proxy.openness import why_not_trusted

_log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 24 * 3600.0
_SOON_SECONDS: Final = 14 * _DAY_SECONDS

# What tells that a file is another one, or has been written: Kubernetes swaps a symbolic link, and
# a file that may be read at last has another change time.
_Signature = tuple[tuple[int, int, int, int] | None, ...]


class TlsError(Exception):
    """The files cannot be used; the message names the file and says what to do."""


class ServerTls:
    """The context for new connections: that of the last files which were whole.

    `refresh` reads files, so it belongs in a thread; `context` may be read meanwhile. `now` gives
    seconds since the epoch.
    """

    def __init__(
        self,
        *,
        cert_file: Path,
        key_file: Path,
        client_ca_file: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises `TlsError`."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        self._now = now
        self._warned = 0.0
        self._seen = self._look()
        self._client_ca = b""
        self._trusting = WeakSet[ssl.SSLContext]()
        self._context, self._end = self._load()
        self._warn_of_end()

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    def trusts(self, context: ssl.SSLContext) -> bool:
        """Whether clients whom this context has let in by their certificates would be so now.

        A connection outlives the authorities that were there when it was opened.
        """
        return context in self._trusting

    def refresh(self) -> None:
        """Take files that have changed, if they are whole; else say why not, once."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context, self._end = self._load()
            except TlsError as error:
                _log.warning("TLS goes on with the certificate that it has: %s", error)
            else:
                _log.info("TLS uses the certificate that is in %s now", self._cert_file)
                self._warned = 0.0
        self._warn_of_end()

    def _look(self) -> _Signature:
        return tuple(
            _sign(path)
            for path in (self._cert_file, self._key_file, self._client_ca_file)
            if path is not None
        )

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """A context, and when its certificate ends in seconds since the epoch."""
        end = _end_of(self._cert_file)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, self._cert_file, self._key_file)
        if self._client_ca_file is not None:
            client_ca = _load_client_ca(context, self._client_ca_file)
            if client_ca != self._client_ca:
                self._client_ca, self._trusting = client_ca, WeakSet()
            self._trusting.add(context)
        return context, end

    def _warn_of_end(self) -> None:
        now = self._now()
        if self._end - now > _SOON_SECONDS or now - self._warned < _DAY_SECONDS:
            return
        self._warned = now
        end = datetime.fromtimestamp(self._end, UTC).strftime("%Y-%m-%d %H:%M UTC")
        _log.warning(
            "the TLS certificate in %s %s on %s: put a new one in its place, which is read without "
            "a restart",
            self._cert_file,
            "ended" if self._end <= now else "ends",
            end,
        )


def _sign(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _read(path: Path, setting: str) -> bytes:
    try:
        if (why := why_not_trusted(path, path.stat().st_mode)) is not None:
            raise TlsError(f"{setting}: {why}")
        return path.read_bytes()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise TlsError(f"{setting}: {path} cannot be read: {why}") from error


def _end_of(path: Path) -> float:
    content = _read(path, "tls-cert-file")
    try:
        first = x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise TlsError(
            f"tls-cert-file: {path} holds no certificate in PEM form (BEGIN CERTIFICATE)"
        ) from error
    return first.not_valid_after_utc.timestamp()


def _load_pair(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    _read(key_file, "tls-key-file")
    encrypted = TlsError(
        f"tls-key-file: the key in {key_file} is encrypted, and nobody is there to be asked for "
        "its passphrase; write it without one (openssl pkey -in OLD -out NEW)"
    )

    def refuse() -> str:
        # Without this, OpenSSL asks on the terminal.
        raise encrypted

    try:
        context.load_cert_chain(cert_file, key_file, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            told = f"the key in {key_file} does not belong to the certificate in {cert_file}"
        else:
            told = (
                f"{cert_file} and {key_file} hold no usable certificate and private key in PEM "
                f"form (BEGIN PRIVATE KEY): {error.reason or error}"
            )
        raise TlsError(f"tls-key-file: {told}") from error
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise TlsError(f"tls-key-file: {cert_file} or {key_file} cannot be read: {why}") from error


def _load_client_ca(context: ssl.SSLContext, path: Path) -> bytes:
    """Have clients' certificates checked against the file, which held what is given back."""
    content = _read(path, "tls-client-ca-file")
    # Optional: a client may authenticate in another way, and health checks do not at all.
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"tls-client-ca-file: {path} holds no certificate in PEM form (BEGIN CERTIFICATE)"
        ) from error
    return content
