"""What the README and deploy/ say of settings and flags is what the program takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import click
import pytest

from proxy.access import Action, Identity
from proxy.cli import commands
from proxy.config import load_settings
from proxy.config.sources import FILE_ALONE, NO_FLAG, NOT_IN_FILE, Sources, spell
from proxy.config.tables import RuleTable, Table, kebab
from proxy.wiring import rules_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DEPLOYED = ["Dockerfile", *(f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir())]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def keys_of_table(heading: str) -> set[str]:
    """The keys in the first column of the table under that heading."""
    table = README[README.index(heading) :].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`([a-z.-]+)`", row.split("|")[1])}


def test_the_readme_opens_with_the_two_commands_each_a_line() -> None:
    assert [block.splitlines() for block in blocks("sh")[:2]] == [
        ["deploy/setup && .venv/bin/ecr-cache-proxy demo"],
        ["deploy/setup --dev && .venv/bin/pytest"],
    ]


def test_ci_runs_the_readmes_command() -> None:
    assert blocks("sh")[1] in (ROOT / ".ci" / "run").read_text()


def test_the_readme_lists_every_setting_and_no_other() -> None:
    settings = {spell(name) for name in set(Sources.model_fields) - NOT_IN_FILE}
    assert keys_of_table("| key | default | |") == settings
    assert keys_of_table("| key of `[[registry]]` | |") == {spell(n) for n in Table.model_fields}
    assert keys_of_table("| key of `[[rule]]` | |") == set(RuleTable.model_fields)


def test_every_setting_is_a_flag_of_serve() -> None:
    flags = {name.removeprefix("--") for name in flags_of("serve")} - {"help"}
    assert flags == {kebab(name) for name in set(Sources.model_fields) - FILE_ALONE - NO_FLAG}


def flags_of(command: str) -> set[str]:
    found: click.Command = commands
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return {
        option
        for parameter in found.get_params(click.Context(found))
        for option in parameter.opts
        if option.startswith("--")
    }


@pytest.mark.parametrize("name", ["README.md", *DEPLOYED])
def test_every_flag_that_is_written_exists(name: str) -> None:
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    for command, rest in re.findall(
        r"ecr-cache-proxy (serve|demo|standin|rewrite|token|htpasswd|cache [a-z]+)\b([^\n`]*)", text
    ):
        assert set(re.findall(r"--[a-z-]+", rest)) <= flags_of(command), rest


@pytest.mark.parametrize("name", ["README.md", *DEPLOYED])
def test_every_variable_that_is_written_exists(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    variables = {variable.lower() for variable in re.findall(r"ECR_CACHE_PROXY_([A-Z_]+)", text)}
    assert variables <= set(Sources.model_fields) - FILE_ALONE


def test_the_settings_in_the_readme_load(tmp_path: Path) -> None:
    (settings,) = [b for b in blocks("toml") if "[[registry]]" in b and "[[rule]]" not in b]
    (tmp_path / "password").write_text("secret")
    file = tmp_path / "settings.toml"
    file.write_text(settings.replace("/run/secrets/registry", "password"))
    loaded = load_settings({"config": str(file)})
    assert [registry.ecr for registry in loaded.registries] == [True, True, False]


def test_the_rules_in_the_readme_let_forks_read_the_cache_and_write_nothing(
    tmp_path: Path,
) -> None:
    (text,) = [block for block in blocks("toml") if "[[rule]]" in block]
    file = tmp_path / "settings.toml"
    file.write_text(text)
    settings = load_settings({"config": str(file)})
    assert settings.authenticates
    rules, registry = rules_of(settings), settings.registries[0].name
    for user, repository, allowed in (
        ("fork-17", "app-cache", {"pull"}),
        ("fork-17", "base/debian", {"pull"}),
        ("fork-17", "app", set()),
        ("ci", "app-cache", {"pull", "push"}),
        ("ci", "other", set()),
        ("admin", "other", {"pull", "push", "delete"}),
    ):
        may = {a for a in Action if rules.allows(Identity(user), a, registry, repository)}
        assert may == allowed, (user, repository)


def test_the_settings_of_new_repositories_in_the_readme_load(tmp_path: Path) -> None:
    (settings,) = [block for block in blocks("toml") if "[new-repositories]" in block]
    file = tmp_path / "settings.toml"
    file.write_text(settings)
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    (registry,) = load_settings({"config": str(file), "registry": (host,)}).registries
    assert registry.new_repositories is not None
    assert registry.new_repositories.immutable_tags


def test_the_settings_file_in_deploy_loads_also_with_what_is_commented_out(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "ecr-cache-proxy.toml").read_text()
    (tmp_path / "password").write_text("secret")
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert len(load_settings({"config": str(file)}).registries) == 1
    uncommented = re.sub(r"^# (?=\[\[|[a-z-]+ = )", "", text, flags=re.MULTILINE)
    file.write_text(uncommented.replace("/run/secrets/registry", "password"))
    loaded = load_settings({"config": str(file)})
    assert len(loaded.registries) == 3
    assert len(loaded.access.rules) == 2
    assert loaded.access.htpasswd_file is not None


def test_the_other_blocks_of_the_readme_are_well_formed() -> None:
    for block in blocks("toml"):
        tomllib.loads(block)
    for block in blocks("json"):
        json.loads(block)


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README)
    assert named
    for file, test in named:
        text = (ROOT / file).read_text("utf-8")
        assert f"def {test}(" in text or not test, f"{file}::{test}"
