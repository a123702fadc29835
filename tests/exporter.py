"""Exports a cache as BuildKit 0.11 does, and tells what became of each request (BUILDKIT.md).

Blob after blob: HEAD; on a 404, POST and one PUT. The config is the last of them. Then HEAD and
PUT of the tag. A layer is tried again after a 5xx or a broken connection, the config and the
manifest are not. A 429 fails it at once, where containerd's resolver would ask a few times more:
a proxy that absorbs throttling shows none.

On sockets of its own, because what counts is when the last byte went out and the first came in.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from tests.caches import ALL_TYPES, CONFIG, OCI_LAYER, OLD, Cache, only
from tests.canaries.watch import WATCH

# A client that waits longer has been forgotten.
_PATIENCE = 120.0
_PIECE = 256 * 1024
# What BuildKit's retryhandler sleeps before it tries a layer again.
PAUSES = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its reply; status 0: the connection broke before there was one.

    `wait` is the time from the request's last byte to the reply's head, in seconds.
    """

    method: str
    path: str
    status: int
    wait: float
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def error(self) -> tuple[str, str] | None:
        """Code and message of the one error in the body, if that is what it has."""
        try:
            [error] = json.loads(self.body)["errors"]
            return error["code"], error["message"]
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(slots=True)
class Export:
    """What became of an export: `failure` is the exchange that ended it before its end."""

    exchanges: list[Exchange] = field(default_factory=list)
    seconds: float = 0.0
    failure: Exchange | None = None

    @property
    def longest_wait(self) -> float:
        return max(exchange.wait for exchange in self.exchanges)

    @property
    def longest_manifest_wait(self) -> float:
        waits = [e.wait for e in self.exchanges if e.method == "PUT" and "/manifests/" in e.path]
        return max(waits, default=0.0)

    @property
    def uploaded(self) -> set[Digest]:
        """The blobs that were taken with a 201."""
        taken = (e.path.partition("digest=")[2] for e in self.exchanges if e.status == 201)
        return {Digest(digest) for digest in taken if digest}


class _Refused(Exception):
    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.exchange = exchange


class Exporter:
    """A client of the registry at `url`, with one connection that is kept; use as a context.

    `pauses` are before each further try at a layer, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        login: tuple[str, str] | None = None,
        pauses: Sequence[float] = PAUSES,
        agent: Mapping[str, str] = OLD,
    ) -> None:
        self._url = url
        self._pauses = pauses
        self._headers = dict(agent)
        # Who logs in asks the registry itself, which may say what the proxy may not.
        self._watched = login is None
        if login is not None:
            encoded = b64encode(":".join(login).encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._export = Export()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up()

    async def export(
        self, repository: str, tag: str, cache: Cache, *, image_manifest: bool = False
    ) -> Export:
        """Push a cache, as the index unless told otherwise; a failure is a result too."""
        self._export = export = Export()
        begun = time.perf_counter()
        try:
            for layer in cache.layers:
                await self._layer(repository, layer)
            await self._blob(repository, cache.config, CONFIG)
            content = cache.image_manifest if image_manifest else cache.index
            await self._manifest(
                repository, tag, content, OCI_MANIFEST if image_manifest else OCI_INDEX
            )
        except _Refused as refused:
            export.failure = refused.exchange
        export.seconds = time.perf_counter() - begun
        return export

    async def look_up(self, repository: str, tag: str) -> Digest:
        """What an importer does first, and most jobs before they export: HEAD tag, GET manifest."""
        self._export = Export()
        path = f"/v2/{repository}/manifests/"
        found = await self._ask("HEAD", f"{path}{tag}", ALL_TYPES, (200,))
        digest = Digest.parse(found.headers["docker-content-digest"])
        media_type = found.headers["content-type"]
        await self._ask("GET", f"{path}{digest}", only(media_type), (200,))
        return digest

    async def _layer(self, repository: str, content: bytes) -> None:
        for pause in self._pauses:
            try:
                await self._blob(repository, content, OCI_LAYER)
            except _Refused as refused:
                if 0 < refused.exchange.status < 500:
                    raise
                await asyncio.sleep(pause)
            else:
                return
        await self._blob(repository, content, OCI_LAYER)

    async def _blob(self, repository: str, content: bytes, media_type: str) -> None:
        digest = Digest.of(content)
        base = f"/v2/{repository}/blobs/"
        if (await self._ask("HEAD", f"{base}{digest}", only(media_type), (200, 404))).status == 200:
            return
        begun = await self._ask("POST", f"{base}uploads/", {"Content-Length": "0"}, (202, 201, 200))
        location = begun.headers["location"]
        joint = "&" if "?" in location else "?"
        done = await self._ask(
            "PUT",
            f"{location}{joint}digest={digest}",
            {"Content-Type": "application/octet-stream"},
            (201, 200, 204),
            body=content,
        )
        self._check_digest(done, digest)

    async def _manifest(self, repository: str, tag: str, content: bytes, media_type: str) -> None:
        digest = Digest.of(content)
        path = f"/v2/{repository}/manifests/{tag}"
        known = await self._ask("HEAD", path, only(media_type), (200, 404))
        if known.status == 200 and known.headers.get("docker-content-digest") == digest:
            return
        headers = {"Content-Type": media_type}
        done = await self._ask("PUT", path, headers, (201, 200, 204), body=content)
        self._check_digest(done, digest)

    def _check_digest(self, done: Exchange, digest: Digest) -> None:
        """`got digest X, expected Y`, says the pusher of 0.8 and 0.11."""
        if done.headers.get("docker-content-digest") != digest:
            raise _Refused(done)

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        good: Sequence[int],
        *,
        body: bytes | None = None,
    ) -> Exchange:
        parts = urlsplit(urljoin(self._url, path))
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        length = {} if body is None else {"Content-Length": str(len(body))}
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{k}: {v}" for k, v in (self._headers | dict(headers) | length).items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        async with asyncio.timeout(_PATIENCE):
            exchange = await self._exchange(method, target, head, body or b"")
        self._export.exchanges.append(exchange)
        if exchange.status not in good:
            raise _Refused(exchange)
        return exchange

    async def _exchange(self, method: str, target: str, head: bytes, body: bytes) -> Exchange:
        sent = time.perf_counter()
        try:
            reader, writer = await self._connect()
            coming = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            try:
                whole = await self._send(writer, head, body, coming)
                sent = time.perf_counter()
                status, found = _parsed(await coming)
            finally:
                coming.cancel()
            wait = max(0.0, time.perf_counter() - sent)
            length = 0 if method == "HEAD" else int(found.get("content-length", "0"))
            content = await reader.readexactly(length)
            if self._watched:
                WATCH.see_reply(status, found, content)
        except (ConnectionError, asyncio.IncompleteReadError):
            self._hang_up()
            return Exchange(method, target, 0, time.perf_counter() - sent, {}, b"")
        # The rest of a body that was refused half-way belongs to no request.
        if not whole or found.get("connection", "").lower() == "close":
            self._hang_up()
        return Exchange(method, target, status, wait, found, content)

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        head: bytes,
        body: bytes,
        coming: asyncio.Task[bytes],
    ) -> bool:
        """Whether all was sent: not when the reply came first, or the connection broke."""
        writer.write(head)
        view = memoryview(body)
        # A server that refuses a body may have hung up on it, and its reply be there all the same.
        with suppress(ConnectionError):
            await writer.drain()
            for start in range(0, len(body), _PIECE):
                if coming.done():
                    return False
                writer.write(view[start : start + _PIECE])
                await writer.drain()
            return True
        return False

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and (
            self._streams[0].at_eof() or self._streams[1].transport.is_closing()
        ):
            self._hang_up()  # the server has closed it meanwhile
        if self._streams is None:
            parts = urlsplit(self._url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            # Drained is what the kernel has.
            writer.transport.set_write_buffer_limits(0)
            self._streams = reader, writer
        return self._streams

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
