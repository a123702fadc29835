"""What all tests together have let out: searched for canaries, counted, and complained of.

One watch for the session, since everything in the process is watched: `WATCH`. What it searches is
what leaves the proxy. What the stand-in and other servers of the tests say to the proxy is theirs
to say, and is not let out until the proxy does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.canaries.scanner import Found, Scanner
from tests.canaries.values import CANARIES, Canary

# What of a long text is shown: enough to see where it comes from.
_SHOWN: Final = 300
# Words of refused redirects, in whatever the proxy lets out.


@dataclass(frozen=True, slots=True)
class Leak:
    """A canary that was let out: which, as what, through what, and the text without it."""

    found: Found
    channel: str
    text: str

    def __str__(self) -> str:
        return f"{self.found.canary} ({self.found.encoding}) in {self.channel}: {self.text}"


@dataclass(slots=True)
class Watch:
    """Searches; what it finds waits in `leaks` until somebody asks, and fails the test then."""

    scanner: Scanner = field(default_factory=lambda: Scanner(CANARIES))
    walked: Counter[str] = field(default_factory=Counter)  # failure paths
    searched: Counter[str] = field(default_factory=Counter)  # texts, and their bytes, by channel
    leaks: list[Leak] = field(default_factory=list)

    def see(self, channel: str, text: bytes | str, *, where: str = "") -> None:
        """Search what was let out through a channel; `where` is told of a leak."""
        content = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        self.searched[channel] += 1
        self.searched[f"bytes of {channel}"] += len(content)
        found = self.scanner.find(content)
        if found:
            shown = self.scanner.hide(content.decode("utf-8", "replace"))[:_SHOWN]
            told = f"{channel} ({where})" if where else channel
            self.leaks += [Leak(each, told, shown) for each in found]

    def see_reply(self, status: int, headers: object, body: bytes) -> None:
        """Search what a client got from a proxy in another process."""
        self.reply(status)
        self.see("replies of processes", f"{headers}")
        self.see("replies of processes", body)

    def reply(self, status: int) -> None:
        """Count a reply's head."""
        if status in {401, 403}:
            self.walked[f"replies {status}"] += 1
        elif status >= 500:
            self.walked["replies 5xx"] += 1

    def refused_redirect(self) -> None:
        self.walked["refused redirects"] += 1

    def traceback(self) -> None:
        self.walked["tracebacks"] += 1

    def take(self) -> list[Leak]:
        """What was found since the last time, each once."""
        leaks, self.leaks = list(dict.fromkeys(self.leaks)), []
        return leaks

    @contextmanager
    def on_purpose(self) -> Iterator[list[Leak]]:
        """What leaks in this context is given to its owner, when it ends, and fails nothing.

        Nor does a failure path count as walked.
        """
        before, self.leaks = self.leaks, []
        walked = self.walked.copy()
        found: list[Leak] = []
        try:
            yield found
        finally:
            found += self.take()
            self.leaks, self.walked = before, walked

    @contextmanager
    def planted(self, name: str, value: str) -> Iterator[None]:
        """Look for a secret that only this context has, such as a key that was just made."""
        canary = Canary(name, value)
        self.scanner.plant(canary)
        try:
            yield
        finally:
            self.scanner.uproot(canary)


# The paths that a whole run of the tests must have walked: none of them may be counted zero.
FAILURE_PATHS: Final = (
    "replies 401",
    "replies 403",
    "replies 5xx",
    "refused redirects",
    "tracebacks",
)
WATCH: Final = Watch()
