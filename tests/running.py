"""The proxy and the stand-in as running servers, for tests that talk to them over sockets."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from yarl import URL

from proxy.app import Started, Timing, serve
from proxy.config import RegistrySettings, Settings
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.standin import StandIn
from proxy.upstream import Tuning
from tests.canaries.values import CLIENT_HEADERS
from tests.canaries.watch import WATCH

# How long a proxy's start waits for its first token here, where a busy machine may be slow.
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def digest(self) -> str:
        return self.headers["Docker-Content-Digest"]

    @property
    def media_type(self) -> str:
        return self.headers["Content-Type"]


class Client:
    """Asks a registry over plain HTTP, following nothing and decoding nothing."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        source: str | None = None,
        watched: bool = False,
    ) -> None:
        """`source` is the address that it comes from, where that matters.

        `watched` is for a proxy that runs in another process: one in this process always is.
        """
        self._url = URL(url)
        self._watched = watched
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(local_addr=(source, 0)) if source else None,
            headers=headers,
            auto_decompress=False,
        )

    def url_of(self, path: str) -> URL:
        return self._url.join(URL(path, encoded=True))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | io.BytesIO | None = None,
    ) -> Answer:
        url = self.url_of(path)
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        async with self.session.request(
            method, url, headers=headers, data=body, allow_redirects=False
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        if self._watched:
            WATCH.see_reply(answer.status, answer.headers, answer.body)
        return answer

    async def push_blob(self, repository: str, content: bytes) -> Digest:
        """As BuildKit does: POST, then one PUT."""
        digest = Digest.of(content)
        started = await self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert started.status == 202, started
        location = started.headers["Location"]
        joint = "&" if "?" in location else "?"
        done = await self.ask("PUT", f"{location}{joint}digest={digest}", body=content)
        assert done.status == 201, done
        return digest

    async def push_manifest(
        self, repository: str, reference: str, content: bytes, media_type: str
    ) -> Answer:
        path = f"/v2/{repository}/manifests/{reference}"
        return await self.ask("PUT", path, headers={"Content-Type": media_type}, body=content)

    async def close(self) -> None:
        await self.session.close()


@dataclass(slots=True)
class RunningProxy:
    """`proxy.app.serve` in this event loop, with what it told."""

    settings: Settings
    timing: Timing = field(default_factory=Timing)
    address: str = ""
    told: list[Event] = field(default_factory=list)
    _client: Client | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.told]

    async def until(self, kind: Kind, times: int = 1) -> None:
        """Wait until that has been told so often: what goes on behind a reply is done then."""
        while self.kinds().count(kind) < times:
            self._news.clear()
            await self._news.wait()

    async def until_upstream(self, *digests: Digest) -> None:
        """Wait until upstream has taken these blobs: what a client is told comes before that."""
        while not set(digests) <= {e.reference for e in self.told if e.kind is Kind.PUSHED_BLOB}:
            self._news.clear()
            await self._news.wait()

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self._news.set()

    async def start(self) -> None:
        ready: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        events = Events()
        events.subscribe(self._hear)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(
            serve(
                self.settings,
                stop=self._stop,
                ready=ready.set_result,
                events=events,
                timing=_patient_at_first(self.timing),
            )
        )
        # A proxy that cannot start ends before it is ready, and says why.
        self._task.add_done_callback(lambda _: ready.done() or ready.cancel())
        await asyncio.wait([ready])
        if ready.cancelled():
            await self._task
        self.address = ready.result().address
        # What nobody asks for is sent all the same by clients that have logged in elsewhere.
        own = None if self.settings.access.authenticates else CLIENT_HEADERS
        self._client = Client(f"http://{self.address}", headers=own)

    async def stop(self, *, close_client: bool = True) -> None:
        if self._client is not None and close_client:
            await self._client.close()
        self._stop.set()
        if self._task is not None:
            await self._task

    async def restart(self, *, empty_cache: bool = False) -> None:
        await self.stop()
        if empty_cache:
            shutil.rmtree(self.settings.cache_dir)
        await self.start()


def _patient_at_first(timing: Timing) -> Timing:
    """The same, with the token there when the proxy is: a fault of a test is not to meet that."""
    if timing.tuning.start_wait != Tuning().start_wait:
        return timing
    return replace(timing, tuning=replace(timing.tuning, start_wait=_START_SECONDS))


def settings_for(*registries: RegistrySettings, cache_dir: Path) -> Settings:
    """Settings for a test: a free port, no patience at the end."""
    return Settings(registries=registries, cache_dir=cache_dir, port=0, shutdown_timeout=5.0)


@asynccontextmanager
async def straight_to(standin: StandIn) -> AsyncIterator[Client]:
    """A client of the stand-in itself, logged in as `docker login` does."""
    login = aiohttp.encode_basic_auth(standin.username, standin.password)
    client = Client(standin.url, headers={"Authorization": login})
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def running(
    settings: Settings, *, timing: Timing | None = None
) -> AsyncIterator[RunningProxy]:
    proxy = RunningProxy(settings, timing or Timing())
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def with_registry(settings: Settings, **changes: object) -> Settings:
    """The same settings with something about the first registry changed."""
    first = replace(settings.registries[0], **changes)  # type: ignore[arg-type]
    return replace(settings, registries=(first, *settings.registries[1:]))
