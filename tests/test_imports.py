"""The direction of imports, the few places where the outside is touched, and the size of files.

    cli → app → handlers → services → (cache | buildcache | upstream) → leaves

The three never import each other. The stand-in imports nothing but the leaves.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROXY = Path(__file__).parent.parent / "proxy"
MAX_LINES = 400

LEAVES = frozenset(
    {
        *("background", "errors", "event_log", "events", "file_limit", "metrics", "oci"),
        *("openness", "peer", "refusals", "singleflight", "sizes", "tls", "unix_socket"),
    }
)

# What each part may import besides itself, the leaves and the package's version.
ALLOWED = {
    "__main__": {"cli"},
    "cli": {
        *("app", "buildcache", "config", "demo", "introductions", "standin", "upstream"),
        "access",
        *("cache", "services"),  # a cache that no proxy runs on is looked after by the command
    },
    "demo": {"app", "config", "introductions", "standin"},
    "introductions": {"standin"},
    "app": {
        "access",
        "buildcache",
        "cache",
        "config",
        "gauges",
        "handlers",
        "services",
        "upstream",
        "wiring",
    },
    "wiring": {"access", "config", "services", "upstream"},
    "gauges": {"cache", "services"},
    # All but services for the types of values.
    "handlers": {"access", "services", "buildcache", "upstream"},
    "access": set(),
    "services": {"buildcache", "cache", "upstream"},
    "cache": set(),
    "buildcache": set(),
    "upstream": set(),
    "standin": set(),
    "config": set(),
} | {leaf: set() for leaf in LEAVES}

# Modules from outside that only some parts may touch, by the name they begin with.
CONFINED = {
    "aiohttp.web": {"app", "handlers", "standin"},
    "bcrypt": {"access"},
    "boto3": {"upstream"},
    "botocore": {"upstream"},
    "click": {"cli"},
    "os.environ": {"config"},
    "os.environb": {"config"},
    "os.getenv": {"config"},
    "prometheus_client": {"metrics"},
    "pydantic": {"config"},
    "pydantic_settings": {"config"},
    "tomllib": {"config"},
}
NO_ASYNCIO = {"buildcache", "config", "oci", "errors", "events", "metrics", "sizes"}

MODULES = sorted(PROXY.rglob("*.py"))
NAMES = [str(path.relative_to(PROXY)) for path in MODULES]


def part_of(path: Path) -> str:
    return path.relative_to(PROXY).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    return names_in(path.read_text("utf-8"), package=("proxy", *path.relative_to(PROXY).parts[:-1]))


def names_in(source: str, *, package: tuple[str, ...]) -> Iterator[str]:
    """Full names of what a module imports, wherever in the file, and of what it then uses as an
    attribute of a module (`os.environ`, `web.Request` as `aiohttp.web.Request`)."""
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                bound[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield f"{module}.{alias.name}"
                bound[alias.asname or alias.name] = f"{module}.{alias.name}"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in bound
        ):
            yield f"{bound[node.value.id]}.{node.attr}"


def begins_with(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    allowed = ALLOWED[part] | LEAVES | {part, "__version__"}
    wrong = {
        name
        for name in imported(path)
        if begins_with(name, "proxy") and name.split(".")[1:2] and name.split(".")[1] not in allowed
    }
    assert not wrong, f"{part} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_the_outside_is_touched_in_few_places(path: Path) -> None:
    part = part_of(path)
    wrong = {
        name
        for name in imported(path)
        for module, parts in CONFINED.items()
        if begins_with(name, module) and part not in parts
    }
    assert not wrong, f"{part} must not touch {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_what_is_pure_stays_so(path: Path) -> None:
    part = part_of(path)
    if part in NO_ASYNCIO:
        wrong = {name for name in imported(path) if begins_with(name, "asyncio")}
        assert not wrong, f"{part} must not know asyncio"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_file_is_longer_than_four_hundred_lines(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by noun"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_open_with_what_lives_there(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), "no docstring"


def test_every_part_has_a_rule() -> None:
    assert {part_of(path) for path in MODULES} - {"__init__"} <= set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import boto3.session", "boto3.session"),
        ("def f():\n    from boto3 import Session", "boto3.Session"),
        ("from aiohttp import web as w\nw.Request", "aiohttp.web.Request"),
        ("import os as system\nsystem.environ", "os.environ"),
        ("from .cli import main", "proxy.cli.main"),
    ],
)
def test_the_walk_sees_every_way_to_import(source: str, name: str) -> None:
    assert name in set(names_in(source, package=("proxy",)))
