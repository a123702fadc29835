"""Whether a file that says who is let in can be changed by others on the machine."""

from __future__ import annotations

import stat
from pathlib import Path


def why_not_trusted(path: Path, mode: int) -> str | None:
    """What is wrong with a file of that mode (`st_mode`) that all may write to, and what to do."""
    if not mode & stat.S_IWOTH:
        return None
    return (
        f"{path}: every user of this machine may write to it (mode {stat.S_IMODE(mode):o}), and "
        f"who does decides what the proxy lets in; chmod o-w {path}"
    )
