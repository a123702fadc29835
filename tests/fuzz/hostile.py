"""A hostile registry in front of a real proxy: what it answers is garbage, in all of its parts.

    python -m tests.fuzz.hostile SEED

It says on which port it listens. Its answers are drawn anew for each request; that they are well
read can be seen only at the proxy, which pulls through from it, and pushes to it.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxy.oci import MANIFEST_TYPES, Digest
from tests.fuzz.client_words import LONG_DIGEST
from tests.fuzz.documents import MANIFESTS, Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.requests import BLOB
from tests.fuzz.upstream_words import CHALLENGES, LOCATIONS, RETRY_AFTER, TOKENS

_REQUEST: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_STATUSES: Final = (
    *(200, 200, 200, 200, 200, 201, 202, 204, 206, 206, 301, 302, 307, 308, 304, 400, 401, 401),
    *(403, 404, 405, 409, 413, 416, 418, 429, 451, 500, 502, 503, 504, 599, 100, 101, 103, 999, 0),
)
_ERRORS: Final = (
    {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such", "detail": {"a": 1}}]},
    {"errors": [{"code": "DENIED", "message": "the token has expired"}]},
    {"errors": [{"code": "X", "message": "blobs are missing: " + LONG_DIGEST}]},
)
_LISTS: Final = (
    {"name": "fuzz/app", "tags": ["a", "b"]},
    {"repositories": ["a"]},
    {"tags": None},
    {"schemaVersion": 2, "manifests": [{"digest": LONG_DIGEST, "size": 1}]},
)
_HEADERS: Final = (
    *("Content-Encoding: gzip", "Content-Type: text/html", "Set-Cookie: a=b; Path=/"),
    "Connection: close",
    *("Docker-Distribution-Api-Version: registry/2.0", "Ecr-Cache-Proxy: 0.1.0", "Via: 1.1 x"),
    *("Ecr-Cache-Proxy-Age: 5", "OCI-Chunk-Min-Length: 1000", "OCI-Filters-Applied: artifactType"),
    *('Link: </v2/x?n=1&last=a>; rel="next"', "OCI-Subject: sha256:00", "OCI-Tag: a, b"),
    *('Etag: "x"', "Range: 0-9", "Docker-Upload-UUID: x", "Accept-Ranges: bytes", "Age: 1"),
    *('Warning: 299 - "x"', "Content-Range: bytes 0-9/10", "Content-Range: bytes */10"),
    *("Alt-Svc: h2", "Strict-Transport-Security: max-age=1", "Upgrade: h2c", "Trailer: x"),
)
_GARBAGE: Final = (
    b"",
    b"\x00" * 64,
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nx",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/9.9 200 OK\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"<html>",
)


class Answers:
    """Draws answers to requests."""

    def __init__(self, mutator: Mutator) -> None:
        self._mutator = mutator
        self._manifests = Documents(mutator, MANIFESTS)
        self._errors = Documents(mutator, _ERRORS)
        self._lists = Documents(mutator, _LISTS)
        self._tokens = Documents(mutator, TOKENS)

    def draw(self, method: str, target: str, port: int) -> bytes:
        mutator = self._mutator
        if mutator.often(0.04):
            return mutator.content(_GARBAGE, unchanged=0.6)
        if "/token" in target and mutator.often(0.8):
            status, body = 200, self._tokens.content()
        else:
            status, body = self._content(target)
        headers = self._headers(status, body, port)
        if mutator.often(0.1):
            return self._chunked(status, headers, body)
        length = str(len(body))
        if mutator.often(0.04):
            length = mutator.text((length, str(len(body) + 10), str(max(0, len(body) - 1))))
        elif mutator.often(0.02):
            return self._whole(status, headers, body)  # until the connection ends
        whole = self._whole(status, [*headers, f"Content-Length: {length}"], body)
        if method == "HEAD":
            return whole[: len(whole) - len(body)]
        if mutator.often(0.05):
            return whole[: mutator.below(len(whole) + 1)]
        if mutator.often(0.03):
            return mutator.content((whole,), unchanged=0)
        return whole

    def ends(self, answer: bytes) -> bool:
        """Whether the connection ends after an answer; else whoever asked waits, if it is no end.

        It waits seldom, since others would be asked meanwhile.
        """
        head, _, body = answer.partition(b"\r\n\r\n")
        is_whole = b"Content-Length: %d" % len(body) in head or head.startswith(b"HTTP/1.1 204")
        return self._mutator.often(0.1 if is_whole else 0.97)

    def _content(self, target: str) -> tuple[int, bytes]:
        mutator = self._mutator
        right = mutator.often(0.6)
        if right and "/blobs/sha" in target:
            return mutator.one((200, 200, 206)), mutator.one((BLOB, BLOB, BLOB[:-1], BLOB + b"x"))
        if right and "/manifests/" in target:
            return mutator.one((200, 200, 201)), self._manifests.content()
        if right and "/uploads/" in target:
            return mutator.one((201, 202, 204)), b""
        if right and ("/tags/" in target or "_catalog" in target or "/referrers/" in target):
            return 200, self._lists.content()
        status = mutator.one(_STATUSES)
        if status in (100, 101, 103, 204, 304, 0, 999):
            return status, b""
        kinds: tuple[Callable[[], bytes], ...] = (
            *(self._errors.content, self._lists.content, self._manifests.content),
            *(lambda: b"", lambda: BLOB, lambda: mutator.content(_GARBAGE)),
        )
        return status, mutator.one(kinds)()

    def _headers(self, status: int, body: bytes, port: int) -> list[str]:
        mutator = self._mutator
        headers = []
        if mutator.often(0.7):
            kinds = (*MANIFEST_TYPES, "application/json", "text/plain; charset=utf-8")
            headers.append(f"Content-Type: {mutator.text(kinds, unchanged=0.8)}")
        if mutator.often(0.4):
            digest = str(Digest.of(body))
            said = mutator.text((digest, LONG_DIGEST), unchanged=0.7)
            headers.append(f"Docker-Content-Digest: {said}")
        if status in (201, 202, 301, 302, 307, 308) or mutator.often(0.05):
            own = (f"http://127.0.0.1:{port}/v2/fuzz/app/blobs/uploads/1?s=a%2fb", "/s3/blob")
            headers.append(f"Location: {mutator.text((*own, *own, *LOCATIONS), unchanged=0.5)}")
        if status == 401:
            realm = f'Bearer realm="http://127.0.0.1:{port}/token",service="x"'
            words = (realm, realm, realm, *CHALLENGES)
            headers.append(f"WWW-Authenticate: {mutator.text(words, unchanged=0.6)}")
        if status in (429, 503) or mutator.often(0.03):
            headers.append(f"Retry-After: {mutator.text(RETRY_AFTER)}")
        if status == 206:
            size = len(body)
            ranges = (f"bytes 0-{size - 1}/{size}", f"bytes 0-{size - 1}/*")
            headers.append(f"Content-Range: {mutator.text(ranges, unchanged=0.5)}")
        while mutator.often(0.3):
            headers.append(mutator.text(_HEADERS, unchanged=0.5))
        return headers

    def _chunked(self, status: int, headers: list[str], body: bytes) -> bytes:
        pieces = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        end = self._mutator.one((b"0\r\n\r\n", b"0\r\n\r\n", b"", b"0\r\nA: b\r\n\r\n", b"g\r\n"))
        return self._whole(status, [*headers, "Transfer-Encoding: chunked"], pieces + end)

    def _whole(self, status: int, headers: list[str], body: bytes) -> bytes:
        lines = [f"HTTP/1.1 {status:03} {'OK' if self._mutator.often(0.95) else ''}", *headers]
        text = "\r\n".join((*lines, "", ""))
        return text.encode("utf-8", "surrogatepass") + body


async def _serve(
    answers: Answers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    port = writer.get_extra_info("sockname")[1]
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            match = _REQUEST.match(head)
            if match is None:
                break
            length = _LENGTH.search(head)
            if length is not None:
                await reader.readexactly(int(length[1]))
            answer = answers.draw(match[1].decode(), match[2].decode("latin-1"), port)
            writer.write(answer)
            await writer.drain()
            if answers.ends(answer):
                break
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _main(seed: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers = Answers(Mutator(f"{seed}/hostile"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(answers, reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024 * 1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
