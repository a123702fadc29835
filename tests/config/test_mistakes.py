"""A mistake in the settings is one line that names the key as its source spells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.loading import ECR, refusal


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({}, "no registry is given"),
        ({"cache_size": "20XB"}, "--cache-size: '20XB' is no size"),
        ({"cache_size": "20"}, "--cache-size: 20 is 20 bytes, and 1MiB is the least"),
        ({"cache_size": "0"}, "--cache-size: 0 is 0 bytes"),
        ({"cache_dir": ""}, "--cache-dir: '' is no path"),
        ({"cache_dir": "~nobody-has-this-name/x"}, "--cache-dir: '~nobody-has-this-name/x'"),
        ({"listen": "5000"}, "--listen: '5000' is no address"),
        ({"listen": "::1:5000"}, "--listen: '::1:5000' is no address"),
        ({"listen": "localhost:"}, "--listen: 'localhost:' is no address"),
        ({"listen": "127.0.0.1:65536"}, "--listen: 65536 is no port"),
        ({"shutdown_timeout": "soon"}, "--shutdown-timeout: 'soon' is no duration"),
        ({"rewrite": "yes"}, "--rewrite: input should be 'auto', 'always' or 'never', not 'yes'"),
        ({"show": "list"}, "--show: input should be"),
        ({"log_level": "loud"}, "--log-level: input should be"),
        ({"registry": (ECR, ECR)}, f"--registry: {ECR} is there twice"),
        ({"registry": ("lan:5000",)}, "--registry: 'lan:5000' is no host name of ECR"),
        ({"registry": ("ftp://lan",)}, "--registry: 'ftp://lan' is no registry's URL"),
        ({"registry": ("https://",)}, "--registry: 'https://' is no registry's URL"),
        ({"registry": ("http://lan:x",)}, "--registry: 'http://lan:x' is no URL"),
        ({"registry": ("http://lan/team",)}, "--registry: 'http://lan/team' names more than"),
        ({"registry": ("http://lan?a",)}, "--registry: 'http://lan?a' names more than"),
        ({"config": "/nowhere/x.toml"}, "cannot read the settings file /nowhere/x.toml: No such"),
        ({"config": "/"}, "cannot read the settings file /: Is a directory"),
    ],
)
def test_a_mistake_in_a_flag_is_named(flags: dict[str, Any], told: str) -> None:
    assert refusal(**flags).startswith(told)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    told = refusal(registry=("https://u:hunter2@lan",))
    assert told == "--registry: a URL has no place for a password; use username and password-file"


def test_a_mistake_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECR_CACHE_PROXY_CACHE_SIZE", "much")
    assert refusal().startswith("ECR_CACHE_PROXY_CACHE_SIZE: 'much' is no size")


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("CACHE_SIZ", "; did you mean ECR_CACHE_PROXY_CACHE_SIZE?"),
        ("TABLES", ": unknown variable"),
        ("SERVICE_HOSTS", ": unknown variable"),
    ],
)
def test_an_unknown_variable_is_refused(
    variable: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ECR_CACHE_PROXY_{variable}", "1")
    line = refusal(registry=(ECR,))
    assert line.startswith(f"ECR_CACHE_PROXY_{variable}: unknown variable")
    assert told in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('cache-siz = "1GiB"', "{file}: cache-siz: unknown key; did you mean cache-size?"),
        ('cache_size = "1GiB"', "{file}: cache_size: unknown key; did you mean cache-size?"),
        ('config = "x"', "{file}: config: unknown key"),
        ("tables = []", "{file}: tables: unknown key; known are abandon-fills-below, cache-dir,"),
        ('cache-size = "much"', "{file}: cache-size: 'much' is no size"),
        ("cache-size = -5", "{file}: cache-size: '-5' is no size"),
        ("listen = 5000", "{file}: listen: 5000 is no address"),
        ("cache-dir = 5", "{file}: cache-dir: 5 is no path"),
        ("cache-size = ", "the settings file {file} is no TOML: Invalid value (at "),
        ('registry = "x"', "{file}: registry: write [[registry]], in double brackets"),
        ("[registry]", "{file}: registry: write [[registry]], in double brackets"),
        ("registry = [3]", "{file}: registry: 3 is no host name"),
        ("[[registry]]", "{file}: registry table 1: give either host (ECR) or url"),
        (
            '[[registry]]\nhost = "a.b"\nurl = "http://a.b"',
            "{file}: registry a.b: give either host (ECR) or url",
        ),
        (
            '[[registry]]\nhost = "a.b"\nrole_arn = "x"',
            "{file}: registry a.b: role_arn: unknown key; did you mean role-arn?",
        ),
        (
            '[[registry]]\nhost = "a.b"\nrewrite = "no"',
            "{file}: registry a.b: rewrite: input should be",
        ),
        (
            '[[registry]]\nhost = "a.b"\nprofile = 3',
            "{file}: registry a.b: profile: input should be a valid string, not 3",
        ),
        (
            '[[registry]]\nhost = "a.b"\nexternal-id = "x"',
            "{file}: registry a.b: external-id goes with role-arn",
        ),
        (
            '[[registry]]\nhost = "a.b"\nusername = "x"',
            "{file}: registry a.b: username is for a registry given by url",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\nprofile = "x"',
            "{file}: registry http://a.b: profile is for ECR, given by host",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\nusername = "x"',
            "{file}: registry http://a.b: username and a password go together",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\nusername="x"\npassword="y"\npassword-file="z"',
            "{file}: registry http://a.b: give either password or password-file",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\nusername = "x"\npassword-file = "gone"',
            "password-file: cannot read {folder}/gone: No such file",
        ),
        (
            '[[registry]]\nhost = "a.b"\n[[registry]]\nhost = "A.b"',
            "{file}: registry A.b: a.b has a table already",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named_with_file_and_key(text: str, told: str, file: Path) -> None:
    line = refusal(text, file)
    assert line.startswith(told.format(file=file, folder=file.parent))


@pytest.mark.parametrize(
    "text",
    [
        '[[registry]]\nurl = "https://u:hunter2@lan"',
        '[[registry]]\nurl = "https://lan"\nusername = "u"\npassword = ["hunter2"]',
        '[[registry]]\nhost = "a.b"\npassword = "hunter2"',
    ],
)
def test_no_password_is_repeated_in_an_error(text: str, file: Path) -> None:
    assert "hunter2" not in refusal(text, file)


def test_an_empty_password_file_is_named(file: Path) -> None:
    (file.parent / "secret").write_text("\n")
    text = '[[registry]]\nurl = "http://lan"\nusername = "x"\npassword-file = "secret"'
    assert refusal(text, file) == f"password-file: {file.parent}/secret is empty"


def test_a_file_that_is_no_text_is_named(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    assert refusal(config=str(file)).startswith(f"the settings file {file} is no TOML: ")
