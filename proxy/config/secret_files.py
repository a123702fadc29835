"""Whether others on the machine can read, or write, the files that hold secrets or grant access."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from proxy.config.sources import SettingsError
from proxy.openness import why_not_trusted


def check_secret_files(secrets: Iterable[Path | None], trusted: Iterable[Path | None]) -> list[str]:
    """Warnings about `secrets` that others can read; raises `SettingsError` for what all can write.

    `trusted` are files that hold no secret, and yet say who is let in or believed. A file that is
    not there is for whoever reads it to tell.
    """
    files = {path: True for path in secrets if path is not None}
    warnings = []
    for path, secret in ({path: False for path in trusted if path is not None} | files).items():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if (why := why_not_trusted(path, mode)) is not None:
            raise SettingsError(why)
        if secret and mode & (stat.S_IROTH | stat.S_IWGRP):
            warnings.append(
                f"{path} holds secrets, and others may read or change it (mode {mode:o}): "
                f"chmod g-w,o-r {path}"
            )
    return warnings
