"""Settings are read from a bare environment, whatever the tests run in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of our variables, no forward proxies, and a home of its own."""
    for name in os.environ:
        if name.upper().startswith("ECR_CACHE_PROXY_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test puts its settings file."""
    return tmp_path / "settings.toml"
