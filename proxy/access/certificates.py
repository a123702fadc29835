"""The user that a client's certificate names. Whether it is to be trusted, TLS has decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from cachetools import LRUCache
from cryptography import x509
from cryptography.x509.oid import NameOID

from proxy.access.identity import Identity, check_user

CertificateName: TypeAlias = Literal["common-name", "dns-name", "email", "uri"]

_REMEMBERED: Final = 1024
_KINDS: Final = {
    "common-name": "common name",
    "dns-name": "DNS name",
    "email": "email address",
    "uri": "URI",
}


class CertificateUnusable(Exception):
    """A certificate that is no login; says why."""


class Certificates:
    """Reads the user out of certificates, each once."""

    def __init__(self, kind: CertificateName, *, now: Callable[[], float] = time.time) -> None:
        self._kind = kind
        self._now = now
        self._known = LRUCache[bytes, tuple[Identity, float]](_REMEMBERED)

    def identify(self, certificate: bytes) -> Identity:
        """The user of a certificate in DER; raises `CertificateUnusable`.

        A connection may outlive its certificate, which is looked at once when it is opened.
        """
        known = self._known.get(certificate)
        if known is None:
            known = self._known[certificate] = read_certificate(certificate, self._kind)
        identity, end = known
        if self._now() > end:
            raise CertificateUnusable("the client's certificate has expired")
        return identity


def read_certificate(certificate: bytes, kind: CertificateName) -> tuple[Identity, float]:
    """The user, and until when it is good in seconds since the epoch.

    Raises `CertificateUnusable` unless there is exactly one name of the kind: with two of them the
    client could be either.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = _names(parsed, kind)
        end = parsed.not_valid_after_utc
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:
        raise CertificateUnusable("the client's certificate cannot be read") from e
    if len(names) != 1:
        raise CertificateUnusable(
            f"the client's certificate has {len(names) or 'no'} names of the kind that says who "
            f"the user is ({_KINDS[kind]}), and must have one"
        )
    try:
        user = check_user(names[0], has_colon=kind == "uri")
    except ValueError as error:
        raise CertificateUnusable(f"the {_KINDS[kind]} is no user: {error}") from error
    return Identity(user), (end - datetime.fromtimestamp(0, UTC)).total_seconds()


def _names(certificate: x509.Certificate, kind: CertificateName) -> list[str]:
    if kind == "common-name":
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(attribute.value) for attribute in found]
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    match kind:
        case "dns-name":
            return names.get_values_for_type(x509.DNSName)
        case "email":
            return names.get_values_for_type(x509.RFC822Name)
        case "uri":
            return names.get_values_for_type(x509.UniformResourceIdentifier)
