"""Certificates of authorities made for a test, as files that a proxy reads."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import trustme

from proxy.config import TlsSettings


class Pair:
    """A server's certificate and key in a folder, for the names by which loopback is called."""

    def __init__(self, folder: Path) -> None:
        self.cert = folder / "tls.crt"
        self.key = folder / "tls.key"

    def write(self, authority: trustme.CA) -> None:
        """Put a new certificate of that authority in the place of what was there."""
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.put(self.cert, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.put(self.key, issued.private_key_pem.bytes())

    @staticmethod
    def put(path: Path, content: bytes) -> None:
        """By a rename, as tools do that renew certificates."""
        fresh = path.with_suffix(".new")
        fresh.touch(0o600)  # a key that others may read is warned of
        fresh.write_bytes(content)
        os.replace(fresh, path)

    def settings(self, client_ca: Path | None = None) -> TlsSettings:
        return TlsSettings(cert_file=self.cert, key_file=self.key, client_ca_file=client_ca)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts that authority and no other."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
