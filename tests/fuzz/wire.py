"""Raw HTTP to a server: bytes as they are on many connections, and what comes back, judged."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxy.oci import Digest
from tests.fuzz.outcome import HANG, Outcome
from tests.fuzz.requests import Sent

# RFC 9112 §3 and §5: nothing but a status line and fields, in characters that may stand there.
_HEAD: Final = re.compile(
    rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
_LIMIT: Final = 1024 * 1024
# How long a reply to what is no request is waited for before our side of the connection is closed.
_ENOUGH: Final = 0.1
_ALLOWED: Final = frozenset({501, 505})


class Malformed(Exception):
    """What came is no HTTP reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


async def read_reply(reader: asyncio.StreamReader, method: str) -> Reply | None:
    """The next reply; None if the connection is closed instead. Raises `Malformed`."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Malformed(f"a part of a head: {error.partial[:200]!r}") from error
            return None
        except asyncio.LimitOverrunError as error:
            raise Malformed("a head without an end") from error
        match = _HEAD.fullmatch(head)
        if match is None:
            raise Malformed(f"a head that is none: {head[:300]!r}")
        status = int(match[1])
        if status >= 200:
            break
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:-2])
    headers = {n.decode().lower(): v.decode("latin-1").strip() for n, _, v in fields}
    if method == "HEAD" or status in (204, 304):
        return Reply(status, headers, b"")
    return Reply(status, headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    try:
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return body
    except asyncio.IncompleteReadError as error:
        # A reply whose body cannot be ended as it should is broken off, and so must be seen.
        return error.partial
    except ConnectionError:
        return b""
    return await reader.read(-1)


class Connections:
    """Sends what is drawn over so many connections at once, and judges what is answered."""

    def __init__(
        self,
        port: int,
        outcome: Outcome,
        draw: Callable[[], Sent],
        *,
        opened: Callable[[str], None] = lambda _: None,
        allowed: frozenset[int] = _ALLOWED,
        patience: float = HANG,
        batch: int = 8,
        count: int = 32,
    ) -> None:
        """`opened` hears of each upload's location; `allowed` are statuses from 500 on.

        A reply that takes longer than `patience`, in seconds, is a hang.
        """
        self._patience = patience
        self._port = port
        self._outcome = outcome
        self._draw = draw
        self._opened = opened
        self._allowed = allowed
        self._batch = batch
        self._count = count
        self._left = 0
        self._spare: list[Sent] = []

    async def run(self, inputs: int) -> None:
        """Send about so many."""
        self._left = inputs
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._work())

    async def _work(self) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        held: Sent | None = None
        while self._left > 0:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, limit=_LIMIT
                )
            # One that is not sound goes alone: it takes those with it that come along with it.
            drawn = [self._next()] if held is None else [held]
            held = None
            while drawn[-1].sound and len(drawn) < self._batch and held is None:
                following = self._next()
                if following.sound:
                    drawn.append(following)
                else:
                    held = following
            self._left -= len(drawn)
            if not await self._exchange(reader, writer, drawn):
                await _close(writer)
                writer = None
        if writer is not None:
            await _close(writer)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drawn: list[Sent]
    ) -> bool:
        """Whether the connection is good for more."""
        start = time.perf_counter()
        writer.write(b"".join(sent.data for sent in drawn))
        for number, sent in enumerate(drawn):
            try:
                async with asyncio.timeout(self._patience):
                    if sent.sound:
                        reply = await read_reply(reader, sent.method)
                    else:
                        reply = await self._impatiently(reader, writer, sent.method)
            except TimeoutError:
                self._count_one("hang", start, sent)
                self._outcome.find(f"no reply and no close within {self._patience:g} s", sent.data)
                return False
            except ConnectionError:
                reply = None
            except (Malformed, ValueError) as error:
                self._count_one("malformed", start, sent)
                if sent.sound:
                    self._outcome.find(f"malformed reply: {error}", sent.data)
                return False
            if reply is None:
                self._count_one("close", start, sent)
                self._put_back(drawn[number + 1 :])
                return False
            self._count_one(str(reply.status), start, sent)
            self._judge(sent, reply)
            if not sent.sound or reply.headers.get("connection", "").lower() == "close":
                self._put_back(drawn[number + 1 :])
                return False
        return True

    def _next(self) -> Sent:
        return self._spare.pop() if self._spare else self._draw()

    def _put_back(self, unanswered: list[Sent]) -> None:
        """They came behind a close: they are sent again on another connection."""
        self._left += len(unanswered)
        self._spare += unanswered

    async def _impatiently(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str
    ) -> Reply | None:
        reading = asyncio.ensure_future(read_reply(reader, method))
        done, _ = await asyncio.wait((reading,), timeout=_ENOUGH)
        if not done:
            with suppress(OSError):  # it is closed already
                writer.write_eof()
        try:
            return await reading
        finally:
            reading.cancel()

    def _count_one(self, reply: str, start: float, sent: Sent) -> None:
        self._outcome.count(reply, time.perf_counter() - start, sent.data)

    def _judge(self, sent: Sent, reply: Reply) -> None:
        find = self._outcome.find
        if reply.status >= 500 and reply.status not in self._allowed:
            said = reply.headers.get("ecr-cache-proxy-error", "")
            find(f"status {reply.status}: {said[:200]}", sent.data)
        if "set-cookie" in reply.headers:
            find("a cookie", sent.data)
        where = reply.headers.get("location", "/v2/")
        if not where.startswith("/v2/"):
            find(f"a location that leads away: {where[:200]}", sent.data)
        if reply.status == 202 and "/blobs/uploads/" in where:
            self._opened(where)
        if reply.status >= 400 and reply.headers.get("content-type") == "application/json":
            _judge_error(sent, reply, find)
        digest = reply.headers.get("docker-content-digest")
        if sent.method == "GET" and reply.status == 200 and digest is not None:
            whole = len(reply.body) == int(reply.headers.get("content-length", -1))
            if whole and not Digest.parse(digest).matches(reply.body):
                find(f"bytes that are not {digest}", sent.data)


def _judge_error(sent: Sent, reply: Reply, find: Callable[[str, bytes], None]) -> None:
    if sent.method == "HEAD":
        return
    try:
        said = json.loads(reply.body)["errors"][0]
        proper = isinstance(said["code"], str) and isinstance(said["message"], str)
    except (ValueError, LookupError, TypeError):
        proper = False
    if not proper:
        find(f"an error that is none: {reply.body[:200]!r}", sent.data)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
