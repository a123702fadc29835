"""All targets within this process."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import (
    access_words,
    client_words,
    disk_words,
    manifest_words,
    settings_words,
    upstream_words,
)
from tests.fuzz.targets import Target


def targets(folder: Path) -> tuple[Target, ...]:
    """Of which some write files to `folder`."""
    return (
        *client_words.targets(),
        *access_words.targets(),
        *manifest_words.targets(),
        *upstream_words.targets(),
        *disk_words.targets(folder),
        *settings_words.targets(folder),
    )
