"""What whoever runs the proxy writes: single values, and a whole settings file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from proxy.config import SettingsError, load_settings
from proxy.config.values import (
    parse_base_url,
    parse_bytes,
    parse_cache_size,
    parse_count,
    parse_floor,
    parse_header_size,
    parse_kms_key,
    parse_listen,
    parse_manifest_size,
    parse_mutable_tags,
    parse_path,
    parse_patterns,
    parse_registry,
    parse_resource_tags,
    parse_seconds,
)
from proxy.sizes import format_size
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

_SEEDS: Final = (
    *("127.0.0.1:5000", "[::1]:5000", ":5000", "localhost:65535", "0.0.0.0:0"),
    *("20GiB", "500MB", "1.5TiB", "64M", "1024", "5%", "1h30m", "500ms", "30s", "2m", "4096"),
    *("http://lan-cache:5000", "https://registry.example/", "https://[::1]:443", "http://a@b/c?d"),
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    *("team/*", "*", "alias/aws/ecr", "~/cache", "~nobody-there/x", "cache*", "/var/cache"),
)
_PARSERS: Final[Sequence[Callable[[object], object]]] = (
    *(parse_base_url, parse_bytes, parse_cache_size, parse_count, parse_floor, parse_header_size),
    *(parse_kms_key, parse_listen, parse_manifest_size, parse_path, parse_patterns),
    *(parse_registry, parse_seconds, parse_mutable_tags, parse_resource_tags),
)
_FILE: Final = """
listen = "127.0.0.1:5000"
cache-size = "1GiB"
idle-timeout = "2m"
max-connections = 4096
read-only = false
[push]
mode = "write-through"
[[registry]]
host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
redirect-hosts = ["*.cdn.example"]
[[registry]]
url = "http://lan-cache:5000"
rewrite = "always"
[new-repositories]
tags = { team = "build" }
[[rule]]
users = ["ci-*"]
repositories = "team/*"
allow = ["pull", "push"]
"""


def _draw_value(mutator: Mutator) -> object:
    text = mutator.text(_SEEDS)
    if mutator.often(0.9):
        return text
    return mutator.one(([text], [text, 1], {text: text}, {text: 1}, 1, -1.5, True, None, 10**400))


def _check_value(value: object) -> str:
    taken = []
    for parse in _PARSERS:
        try:
            parsed = parse(value)
        except ValueError as error:
            if not str(error):
                raise Wrong(f"{parse.__name__} says nothing of it") from error
            continue
        if parse is parse_seconds and not math.isfinite(float(str(parsed))):
            raise Wrong("a time that never ends")
        if parse is parse_bytes and isinstance(parsed, int):
            format_size(min(parsed, 10**300))
        taken.append(parse.__name__.removeprefix("parse_"))
    return "taken" if taken else "ValueError"


class _Files:
    """A settings file, and what is made of it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "proxy.toml"

    def draw(self, mutator: Mutator) -> bytes:
        return mutator.content((_FILE.encode(),))

    def check(self, content: bytes) -> str:
        self._path.write_bytes(content)
        try:
            load_settings({"config": str(self._path), "cache_dir": "/cache"})
        except SettingsError as error:
            if "\n" in str(error):
                raise Wrong(f"more than a line: {error}") from error
            return "SettingsError"
        return "settings"


def targets(folder: Path) -> tuple[Target, ...]:
    files = _Files(folder)
    return (
        Target("values of settings", _draw_value, _check_value, 1.0),
        Target("settings files", files.draw, files.check, 0.05),
    )
