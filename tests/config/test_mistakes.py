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
        ({"max_upload_size": "0"}, "--max-upload-size: with 0 no blob would be taken"),
        ({"cache_dir": ""}, "--cache-dir: '' is no path"),
        ({"cache_dir": "~nobody-has-this-name/x"}, "--cache-dir: '~nobody-has-this-name/x'"),
        ({"listen": "5000"}, "--listen: '5000' is no address"),
        ({"listen": "::1:5000"}, "--listen: '::1:5000' is no address"),
        ({"listen": "localhost:"}, "--listen: 'localhost:' is no address"),
        ({"listen": "127.0.0.1:65536"}, "--listen: 65536 is no port"),
        ({"shutdown_timeout": "soon"}, "--shutdown-timeout: 'soon' is no duration"),
        ({"rewrite": "yes"}, "--rewrite: input should be 'auto', 'always' or 'never', not 'yes'"),
        ({"show": "list"}, "--show: input should be"),
        (
            {"push_mode": "write_back"},
            "--push-mode: input should be 'write-back' or 'write-through', not 'write_back'",
        ),
        ({"create_repositories": "perhaps"}, "--create-repositories: input should be"),
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
        ("PUSH", ": unknown variable"),
        ("NEW_REPOSITORIES", ": unknown variable"),
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
        (
            '[[rule]]\nuser = "ci"\nrepositories = "*"\nallow = ["pull"]',
            "{file}: rule 1: user: unknown key; did you mean users?",
        ),
        (
            '[[rule]]\nusers = "ci"\nrepositories = "Team/*"\nallow = []',
            "{file}: rule 1: repositories: 'Team/*' matches nothing: names of repositories",
        ),
        (
            '[[rule]]\nusers = "ci"\nallow = ["pull"]',
            "{file}: rule 1: repositories: this key is missing",
        ),
        ('config = "x"', "{file}: config: unknown key"),
        (
            "tables = []",
            "{file}: tables: unknown key; known are abandon-fills-below, body-timeout,",
        ),
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
            '[[registry]]\nurl = "http://a.b"\nclient-cert-file = "x"',
            "{file}: registry http://a.b: client-cert-file and client-key-file go together",
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
            '[push]\nmod = "write-back"',
            "{file}: push.mod: unknown key; did you mean mode?",
        ),
        ('push.mode = "none"', "{file}: push.mode: input should be 'write-back' or"),
        ('push = "write-back"', "{file}: push: write a table, not 'write-back'"),
        ('push-mode = "write-back"', "{file}: push-mode: unknown key; did you mean push.mode?"),
        (
            '[[registry]]\nhost = "a.b"\npush.moda = "write-back"',
            "{file}: registry a.b: push.moda: unknown key; did you mean mode?",
        ),
        (
            '[[registry]]\nhost = "a.b"\npush-mode = "write-back"',
            "{file}: registry a.b: push-mode: unknown key; did you mean push.mode?",
        ),
        (
            '[[registry]]\nhost = "a.b"\npush.mode = 1',
            "{file}: registry a.b: push.mode: input should be 'write-back' or",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\ncreate-repositories = true',
            "{file}: registry http://a.b: create-repositories is for ECR, given by host",
        ),
        (
            '[[registry]]\nurl = "http://a.b"\n[registry.new-repositories]\nscan-on-push = true',
            "{file}: registry http://a.b: new-repositories is for ECR, given by host",
        ),
        (
            "[new-repositories]\nscan-on-pull = true",
            "{file}: new-repositories.scan-on-pull: unknown key; did you mean scan-on-push?",
        ),
        (
            '[[registry]]\nhost = "a.b"\n[registry.new-repositories]\nscan_on_push = true',
            "{file}: registry a.b: new-repositories.scan_on_push: unknown key; did you mean scan-",
        ),
        (
            '[new-repositories]\nmutable-tags = ["cache*"]',
            "{file}: new-repositories: mutable-tags are exceptions: they go with immutable-tags",
        ),
        (
            '[[registry]]\nhost = "a.b"\nnew-repositories.mutable-tags = ["cache*"]',
            "{file}: registry a.b: new-repositories: mutable-tags are exceptions",
        ),
        (
            '[new-repositories]\nimmutable-tags = true\nmutable-tags = ["cache*", "no space"]',
            "{file}: new-repositories.mutable-tags: 'no space' is no pattern of tags; write cache*",
        ),
        (
            '[new-repositories]\nimmutable-tags = true\nmutable-tags = "cache*"',
            "{file}: new-repositories.mutable-tags: 'cache*' is no list of patterns",
        ),
        (
            'new-repositories = {immutable-tags = true, mutable-tags = ["1","2","3","4","5","6"]}',
            "{file}: new-repositories.mutable-tags: 6 patterns, and ECR takes 5 at most",
        ),
        (
            '[new-repositories]\nkms-key = ""',
            "{file}: new-repositories.kms-key: '' is no KMS key; give its ARN, its id, or alias/",
        ),
        (
            '[new-repositories]\nkms-key = "ci"',
            "{file}: new-repositories.kms-key: 'ci' is no KMS key",
        ),
        (
            "[new-repositories]\ntags = {team = 3}",
            "{file}: new-repositories.tags: team is 3: a tag's value is a string",
        ),
        (
            '[new-repositories]\ntags = {"" = "x"}',
            "{file}: new-repositories.tags: '': a tag's key has 1 to 128 characters",
        ),
        (
            '[new-repositories]\ntags = ["team"]',
            "{file}: new-repositories.tags: ['team'] is no table of tags; write {{team",
        ),
        ("new-repositories = true", "{file}: new-repositories: write a table, not True"),
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
