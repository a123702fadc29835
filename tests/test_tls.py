"""A server's certificate from files: what cannot be used is named, what changes is taken."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.tls import ServerTls, TlsError
from tests.certificates import Pair
from tests.clocks import Clock

DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> Pair:
    pair = Pair(tmp_path)
    pair.write(authority)
    return pair


def _opened(pair: Pair, client_ca: Path | None = None, *, clock: Clock | None = None) -> ServerTls:
    now = {} if clock is None else {"now": clock}
    return ServerTls(cert_file=pair.cert, key_file=pair.key, client_ca_file=client_ca, **now)


def _problem(pair: Pair, client_ca: Path | None = None) -> str:
    with pytest.raises(TlsError) as caught:
        _opened(pair, client_ca)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["cert", "key"])
def test_a_file_that_is_missing_is_named(pair: Pair, name: str) -> None:
    path: Path = getattr(pair, name)
    path.unlink()
    assert _problem(pair) == (f"tls-{name}-file: {path} cannot be read: No such file or directory")


def test_a_certificate_that_is_none_is_named(pair: Pair) -> None:
    pair.cert.write_bytes(b"garbage")
    assert f"{pair.cert} holds no certificate in PEM form" in _problem(pair)


def test_a_key_that_is_none_is_named(pair: Pair) -> None:
    pair.key.write_bytes(b"garbage")
    assert str(pair.key) in _problem(pair)
    assert "BEGIN PRIVATE KEY" in _problem(pair)


def test_a_key_of_another_certificate_is_named(pair: Pair, authority: trustme.CA) -> None:
    pair.key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    assert f"the key in {pair.key} does not belong to the certificate" in _problem(pair)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    assert "is encrypted" in _problem(pair)
    assert "openssl pkey" in _problem(pair)


def test_authorities_of_clients_that_are_none_are_named(pair: Pair, tmp_path: Path) -> None:
    client_ca = tmp_path / "ca.crt"
    assert f"{client_ca} cannot be read" in _problem(pair, client_ca)
    client_ca.write_bytes(b"garbage")
    assert f"tls-client-ca-file: {client_ca} holds no certificate" in _problem(pair, client_ca)


def test_nothing_older_than_tls_1_2_is_spoken(pair: Pair) -> None:
    context = _opened(pair).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE


def test_what_has_not_changed_is_not_read_again(pair: Pair) -> None:
    tls = _opened(pair)
    context = tls.context
    tls.refresh()
    assert tls.context is context


@pytest.mark.parametrize("way", ["written in place", "renamed", "by a symbolic link"])
def test_what_has_changed_is_taken(
    way: str, pair: Pair, tmp_path: Path, authority: trustme.CA
) -> None:
    if way == "by a symbolic link":  # as Kubernetes mounts a secret
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            Pair(tmp_path / name).write(authority)
        link = tmp_path / "data"
        link.symlink_to("first")
        pair = Pair(link)
    tls = _opened(pair)
    context = tls.context
    if way == "by a symbolic link":
        (tmp_path / "next").symlink_to("second")
        (tmp_path / "next").replace(link)
    elif way == "renamed":
        pair.write(authority)
    else:
        issued = authority.issue_cert("localhost")
        pair.cert.write_bytes(issued.cert_chain_pems[0].bytes())
        pair.key.write_bytes(issued.private_key_pem.bytes())
    tls.refresh()
    assert tls.context is not context


def test_a_context_is_trusted_until_the_authorities_of_clients_are_others(
    pair: Pair, authority: trustme.CA, tmp_path: Path
) -> None:
    client_ca = tmp_path / "clients.crt"
    Pair.put(client_ca, trustme.CA().cert_pem.bytes())
    tls = _opened(pair, client_ca)
    first = tls.context
    pair.write(authority)
    tls.refresh()
    assert tls.context is not first
    assert tls.trusts(first)
    Pair.put(client_ca, trustme.CA().cert_pem.bytes())
    tls.refresh()
    assert not tls.trusts(first)
    assert tls.trusts(tls.context)


def test_what_is_not_whole_is_told_once_and_the_old_certificate_stays_until_it_is_mended(
    pair: Pair, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    tls = _opened(pair)
    context = tls.context
    issued = authority.issue_cert("localhost")
    Pair.put(pair.cert, issued.cert_chain_pems[0].bytes())
    tls.refresh()
    tls.refresh()
    assert tls.context is context
    (message,) = (record.getMessage() for record in caplog.records)
    assert "goes on with the certificate that it has" in message
    assert str(pair.key) in message
    Pair.put(pair.key, issued.private_key_pem.bytes())
    tls.refresh()
    assert tls.context is not context


def test_authorities_that_everybody_may_write_to_leave_the_old_ones(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client_ca = tmp_path / "clients.crt"
    Pair.put(client_ca, trustme.CA().cert_pem.bytes())
    tls = _opened(pair, client_ca)
    context = tls.context
    Pair.put(client_ca, trustme.CA().cert_pem.bytes())
    client_ca.chmod(0o666)
    tls.refresh()
    assert tls.context is context
    assert f"chmod o-w {client_ca}" in caplog.text
    client_ca.chmod(0o644)
    tls.refresh()
    assert tls.context is not context


def test_a_file_that_disappears_leaves_the_old_certificate(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    tls = _opened(pair)
    context = tls.context
    pair.cert.unlink()
    tls.refresh()
    assert tls.context is context
    assert f"{pair.cert} cannot be read" in caplog.text


def test_a_certificate_that_ends_soon_is_a_warning_once_a_day(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    pair, clock = Pair(tmp_path), Clock()
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=100)
    issued = authority.issue_cert("localhost", not_after=end)
    pair.cert.write_bytes(issued.cert_chain_pems[0].bytes())
    pair.key.write_bytes(issued.private_key_pem.bytes())
    clock.now = end.timestamp() - 15 * DAY
    tls = _opened(pair, clock=clock)
    assert not caplog.records
    clock.now += 2 * DAY
    tls.refresh()
    tls.refresh()
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"{pair.cert} ends on {end:%Y-%m-%d}" in message
    clock.now = end.timestamp() + DAY
    tls.refresh()
    assert "ended on" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2
