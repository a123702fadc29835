"""The demo: a stand-in for ECR and the proxy in one process, and what happens, told as it happens.

It touches no AWS account, no settings and no cache of the user: all of it is on loopback and in a
temporary directory. The command line owns the signals; what is printed goes through `say`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.app import Started, serve
from proxy.config import RegistrySettings, Settings
from proxy.events import Event, Events, Kind
from proxy.introductions import introduce_demo
from proxy.oci import Digest
from proxy.sizes import format_size
from proxy.standin import StandIn, StandInSettings

Say = Callable[[str], None]

# What it says of each kind of event; those that serve bytes from disk are what is saved.
_WORDS: Final = {
    Kind.HIT: "from disk",
    Kind.MISS: "fetched from ECR",
    Kind.JOIN: "joined a download under way",
    Kind.BYPASS: "passed through, not kept",
    Kind.STORED: "verified, and kept on disk",
    Kind.EVICTED: "made room",
    Kind.CORRUPT: "is not what its digest says",
    Kind.PUSHED_BLOB: "pushed to ECR",
    Kind.PUSHED_MANIFEST: "pushed to ECR",
    Kind.REWRITTEN: "legacy cache, stored as an image manifest, which ECR takes",
    Kind.REPAIRED: "was lost by ECR, sent again from disk",
    Kind.CREATED: "created in ECR",
    Kind.BROKEN: "has lost blobs, so it counts as not there",
    Kind.RESTORED: "shown in the form that this client reads",
}
_SAVING: Final = frozenset({Kind.HIT, Kind.JOIN})


async def run_demo(*, host: str, port: int, stop: asyncio.Event, say: Say) -> None:
    """Run until `stop` is set; raises `StartError` when the proxy cannot start.

    `say` prints a line. When it raises `BrokenPipeError`, whoever watched has gone, and the demo
    ends with that error.
    """
    view = LiveView(say, stop)
    events = Events()
    standin = StandIn(StandInSettings(create_on_push=("ROOT",)))
    with tempfile.TemporaryDirectory(prefix="ecr-cache-proxy-demo-") as directory:
        async with standin:
            settings = Settings(
                registries=(registry_of(standin),),
                cache_dir=Path(directory),
                host=host,
                port=port,
                shutdown_timeout=5.0,
            )

            def on_ready(started: Started) -> None:
                view.say(introduce_demo(started.address, standin))
                events.subscribe(view.show)

            await serve(settings, stop=stop, ready=on_ready, events=events)
    view.close()


def registry_of(standin: StandIn) -> RegistrySettings:
    """The stand-in as the ECR registry that it plays, with credentials of its own."""
    return RegistrySettings(
        name=standin.host,
        url=standin.url,
        ecr=True,
        api_url=standin.url,
        access_key_id=standin.access_key_id,
        secret_access_key=standin.secret_access_key,
    )


class LiveView:
    """Prints one line an event, and keeps count of the bytes that did not cross the uplink."""

    def __init__(self, say: Say, stop: asyncio.Event) -> None:
        self._say = say
        self._stop = stop
        self._saved = 0
        self._broken: BrokenPipeError | None = None

    def show(self, event: Event) -> None:
        """An event as a line; never raises, as subscribers must not."""
        if event.kind in _SAVING:
            self._saved += event.size
        self.say(f"{time.strftime('%H:%M:%S')}  {event.kind:<15}  {self._describe(event)}")

    def say(self, line: str) -> None:
        if self._broken is not None:
            return
        try:
            self._say(line)
        except BrokenPipeError as error:
            self._broken = error
            self._stop.set()

    def close(self) -> None:
        """The closing line; raises `BrokenPipeError` if a line could not be printed."""
        self.say(f"bytes that did not cross the uplink: {format_size(self._saved)}")
        if self._broken is not None:
            raise self._broken

    def _describe(self, event: Event) -> str:
        joint = "@" if event.reference.startswith(("sha256:", "sha512:")) else ":"
        name = event.repository + (joint + _shorten(event.reference) if event.reference else "")
        words = [part for part in (name or event.registry, _WORDS.get(event.kind, "")) if part]
        if event.size:
            words.insert(1 if name else 0, format_size(event.size))
        if event.detail:
            words.append(f"({' '.join(_shorten(word) for word in event.detail.split())})")
        if event.kind in _SAVING:
            words.append(f"- saved so far: {format_size(self._saved)}")
        return " ".join(words)


def _shorten(word: str) -> str:
    """A digest by its first digits, anything else as it is."""
    try:
        digest = Digest.parse(word)
    except ValueError:
        return word
    return f"{digest.algorithm}:{digest.hex[:12]}"
