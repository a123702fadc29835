"""The user in a client's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.access.certificates import (
    CertificateName,
    Certificates,
    CertificateUnusable,
    read_certificate,
)
from proxy.access.identity import Identity
from tests.clocks import Clock

KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=1)
NAMES: list[x509.GeneralName] = [
    x509.DNSName("runner.example"),
    x509.RFC822Name("ci@example"),
    x509.UniformResourceIdentifier("spiffe://example/ci"),
]


def certificate(
    common_names: Sequence[str] = ("ci",), names: Sequence[x509.GeneralName] = ()
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(KEY.public_key()).serial_number(1)
    builder = builder.not_valid_before(START).not_valid_after(END)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("kind", "user"),
    [
        ("common-name", "ci"),
        ("dns-name", "runner.example"),
        ("email", "ci@example"),
        ("uri", "spiffe://example/ci"),
    ],
)
def test_the_name_of_the_kind_is_the_user(kind: CertificateName, user: str) -> None:
    identity, end = read_certificate(certificate(names=NAMES), kind)
    assert identity == Identity(user)
    assert end == END.timestamp()


@pytest.mark.parametrize("kind", ["common-name", "dns-name", "email", "uri"])
def test_no_such_name_is_no_login(kind: CertificateName) -> None:
    with pytest.raises(CertificateUnusable, match="has no names of the kind"):
        read_certificate(certificate(common_names=()), kind)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dns-name", [x509.DNSName("a.example"), x509.DNSName("b.example")]),
        ("email", [x509.RFC822Name("a@example"), x509.RFC822Name("b@example")]),
    ],
)
def test_two_such_names_are_no_login(kind: CertificateName, names: list[x509.GeneralName]) -> None:
    with pytest.raises(CertificateUnusable, match="has 2 names of the kind"):
        read_certificate(certificate(names=names), kind)
    with pytest.raises(CertificateUnusable, match="has 2 names of the kind"):
        read_certificate(certificate(common_names=("a", "b")), "common-name")


@pytest.mark.parametrize("name", ["a\nb", "a:b", " ci", "#ci", "\u202eci"])
def test_a_name_that_can_be_no_users_is_no_login(name: str) -> None:
    with pytest.raises(CertificateUnusable, match="the common name is no user"):
        read_certificate(certificate(common_names=(name,)), "common-name")


def test_what_is_no_certificate_is_no_login() -> None:
    for content in (b"", b"\x30\x00", certificate()[:-10]):
        with pytest.raises(CertificateUnusable, match="cannot be read"):
            read_certificate(content, "common-name")


def test_a_certificate_that_expires_while_the_connection_lives_is_no_login_any_more() -> None:
    clock = Clock()
    clock.now = END.timestamp() - 1
    certificates = Certificates("common-name", now=clock)
    assert certificates.identify(certificate()) == Identity("ci")
    clock.now = END.timestamp() + 1
    with pytest.raises(CertificateUnusable, match="has expired"):
        certificates.identify(certificate())
