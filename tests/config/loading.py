"""Loads settings, or fails to, as the tests ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config import Settings, SettingsError, load_settings

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
OTHER_ECR = "210987654321.dkr.ecr.us-east-1.amazonaws.com"


def load(text: str | None = None, file: Path | None = None, **flags: Any) -> Settings:
    """The settings of these flags and of a file with that text."""
    if text is not None:
        assert file is not None
        file.write_text(text)
        flags["config"] = str(file)
    return load_settings(flags)


def refusal(text: str | None = None, file: Path | None = None, **flags: Any) -> str:
    """The one line that such settings are refused with."""
    with pytest.raises(SettingsError) as refused:
        load(text, file, **flags)
    assert "\n" not in str(refused.value)
    return str(refused.value)
