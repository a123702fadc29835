"""Files of users as their owners write them, and what clients send."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from proxy.access.htpasswd import MIN_COST, hash_password


def basic(user: str, password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def replace(path: Path, text: str) -> None:
    """As Kubernetes and careful programs do: a new file in the place of the old one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


class Htpasswd:
    """An htpasswd file at the least cost."""

    def __init__(self, path: Path, passwords: dict[str, str]) -> None:
        self.path = path
        self._lines: dict[str, str] = {}
        for user, password in passwords.items():
            self.set(user, password)

    def set(self, user: str, password: str) -> None:
        self._lines[user] = f"{user}:{hash_password(password, cost=MIN_COST)}\n"
        self._write()

    def remove(self, user: str) -> None:
        del self._lines[user]
        self._write()

    def _write(self) -> None:
        replace(self.path, "# made by a test\n\n" + "".join(self._lines.values()))
