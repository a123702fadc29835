"""The locked requirements: complete, with hashes, and from nowhere in particular."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ["requirements.txt", "requirements-dev.txt"]


def locked(name: str) -> dict[str, str]:
    """The version of each package in a lock."""
    text = (ROOT / name).read_text("utf-8")
    return {
        canonicalize_name(package): version
        for package, version in re.findall(r"^([\w.-]+)==(\S+) \\$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("name", LOCKS)
def test_what_the_project_asks_for_is_locked_at_a_version_that_fits(name: str) -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    if name == "requirements-dev.txt":
        wanted += PROJECT["project"]["optional-dependencies"]["dev"]
    versions = locked(name)
    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_each_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = text.partition("\ndependencies = [\n")[2].partition("\n]\n")[0].splitlines()
    assert len(listed) == len(PROJECT["project"]["dependencies"])
    for line in listed:
        assert re.fullmatch(r'    "[^"]+", +# [a-zA-Z].{10,}', line), line


def test_the_tests_run_with_the_versions_that_users_get() -> None:
    assert locked("requirements.txt").items() <= locked("requirements-dev.txt").items()


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes_and_no_place_is_named(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    entries = re.findall(
        r"^\S+==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    assert len(entries) == len(locked(name)) == sum("==" in line for line in lines)
