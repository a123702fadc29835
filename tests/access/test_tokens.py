"""Static tokens: what a file may hold, and who may use one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.access.credentials import Credentials
from proxy.access.files import WatchedFile
from proxy.access.identity import AccessError, Identity
from proxy.access.tokens import (
    Tokens,
    new_token,
    parse_token_file,
    parse_token_settings,
    token_line,
)
from tests.access.files import replace

TOKEN = "ecp_" + "A1-_" * 10 + "xyz"
SECRET = TOKEN.encode()
CI = Identity("ci")


def parsed(*lines: str) -> Mapping[bytes, str]:
    return parse_token_settings(lines)


def test_a_token_is_long_random_and_fits_everywhere() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    token = new_token()
    assert token.startswith("ecp_")
    assert len(token) == len("ecp_") + 43
    assert token.replace("_", "").replace("-", "").isalnum()


@pytest.mark.parametrize(
    ("credentials", "identity"),
    [
        (Credentials(None, SECRET), CI),
        (Credentials("ci", SECRET), CI),
        (Credentials("token", SECRET), CI),
        (Credentials("alice", SECRET), None),
        (Credentials("CI", SECRET), None),
        (Credentials("", SECRET), None),
        (Credentials("ci", SECRET + b"x"), None),
        (Credentials("ci", SECRET[:-1]), None),
        (Credentials("ci", token_line("ci", TOKEN).encode()), None),
        (Credentials("ci", b""), None),
        (Credentials(None, b"\0"), None),
    ],
)
def test_a_token_is_its_users_alone(credentials: Credentials, identity: Identity | None) -> None:
    assert Tokens(parsed(token_line("ci", TOKEN)), None).recall(credentials) == identity


async def test_tokens_of_the_file_and_of_the_settings_count_and_revoked_ones_do_not(
    tmp_path: Path,
) -> None:
    path, old, new = tmp_path / "tokens", new_token(), new_token()
    # Two of one user, so that one can take the other's place.
    path.write_text(f"# ci\n{token_line('ci', old)}\n{token_line('ci', new)}\n")
    tokens = Tokens(parsed(token_line("env", TOKEN)), WatchedFile(path, parse_token_file))
    for token, user in ((old, "ci"), (new, "ci"), (TOKEN, "env")):
        assert tokens.recall(Credentials(None, token.encode())) == Identity(user)
    replace(path, token_line("ci", new))
    await tokens.refresh()
    assert tokens.recall(Credentials(None, old.encode())) is None
    assert await tokens.verify(Credentials(None, old.encode())) is None
    assert tokens.recall(Credentials(None, new.encode())) == CI


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"ci:{TOKEN}", "this is a token itself, and only hashes are kept here"),
        (f"ci:sha256:{TOKEN}", "this is a token itself"),
        (TOKEN, "this is a token itself"),
        ("ci:secret", "there is no USER:sha256:HEX"),
        ("ci", "there is no USER:sha256:HEX"),
        ("ci:sha256:", "there is no USER:sha256:HEX"),
        ("ci:sha256:" + "0" * 63, "there is no USER:sha256:HEX"),
        ("ci:sha512:" + "0" * 64, "there is no USER:sha256:HEX"),
        (":sha256:" + "0" * 64, "a user's name is not empty"),
        (token_line("other", TOKEN), "another user has the same token"),
    ],
)
def test_a_line_that_is_of_no_use_is_refused_and_not_repeated(line: str, told: str) -> None:
    good = token_line("ci", TOKEN)
    with pytest.raises(AccessError) as of_file:
        parse_token_file(f"{good}\n\n{line}\n", "/etc/tokens")
    with pytest.raises(AccessError) as of_settings:
        parsed(good, line)
    assert str(of_file.value).startswith(f"/etc/tokens, line 3: {told}")
    assert str(of_settings.value).startswith(f"tokens, entry 2: {told}")
    if "user's name" not in told:
        assert "ecr-cache-proxy token USER" in str(of_file.value)
    assert TOKEN not in str(of_file.value)
    assert "secret" not in str(of_file.value)


def test_hex_of_either_case_is_taken() -> None:
    user, kind, digest = token_line("ci", TOKEN).split(":")
    tokens = Tokens(parsed(f"{user}:{kind}:{digest.upper()}"), None)
    assert tokens.recall(Credentials(None, SECRET)) == CI
