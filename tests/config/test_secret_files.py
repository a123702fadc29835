"""Files that hold secrets: others may not read them unwarned, nor write to them at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.loading import ECR, load, refusal

TABLE = '[[registry]]\nurl = "http://lan"\n'


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("hunter2")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("bits", [0o604, 0o620])
def test_a_secret_that_others_can_read_or_change_is_warned_of(
    file: Path, secret: Path, bits: int
) -> None:
    text = f'{TABLE}username = "u"\npassword-file = "{secret}"'
    assert load(text, file).warnings == ()
    secret.chmod(bits)
    (warning,) = load(text, file).warnings
    assert warning == (
        f"{secret} holds secrets, and others may read or change it (mode {bits:o}): "
        f"chmod g-w,o-r {secret}"
    )


@pytest.mark.parametrize(
    "key", ["htpasswd_file", "token_file", "ca_bundle", "tls_key_file", "tls_client_ca_file"]
)
def test_what_everybody_can_write_to_is_refused(secret: Path, key: str) -> None:
    secret.chmod(0o602)
    flags: dict[str, Any] = {"registry": (ECR,)}
    if "tls" in key:
        flags |= {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem"}
    told = refusal(**(flags | {key: str(secret)}))
    assert f"{secret}: every user of this machine may write to it (mode 602)" in told
    assert f"chmod o-w {secret}" in told


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (f'{TABLE}username = "u"\npassword = "p"', True),
        (f'tokens = ["u:sha256:{"0" * 64}"]\n{TABLE}', True),
        (TABLE, False),
    ],
)
def test_the_settings_file_counts_where_a_secret_is_in_it(
    file: Path, text: str, warned: bool
) -> None:
    file.write_text(text)
    file.chmod(0o644)
    assert bool(load(text, file).warnings) is warned
    file.chmod(0o646)
    assert str(file) in refusal(text, file)


def test_a_certificate_may_be_read_by_all(secret: Path) -> None:
    secret.chmod(0o644)
    assert load(registry=(ECR,), ca_bundle=str(secret)).warnings == ()


def test_no_secret_is_in_a_repr(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:3128")
    tokens = f"u:sha256:{'0' * 64}"
    text = f'tokens = ["{tokens}"]\n{TABLE}username = "u"\npassword = "hunter2"'
    shown = repr(load(text, file))
    assert "hunter2" not in shown
    assert tokens not in shown
