"""A client that costs little: blocking sockets and large reads, so that the server is measured."""

from __future__ import annotations

import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from proxy.oci import Digest
from tests.bench.content import Content

_TIMEOUT: Final = 60.0
_READ: Final = 1024 * 1024
_DOCKER_CHUNK: Final = 32 * 1024  # what Go's io.Copy hands to a chunked body


@dataclass(frozen=True, slots=True)
class Server:
    """Where a registry is, and the login that it wants."""

    url: str
    login: tuple[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        if self.login is None:
            return {}
        return {"Authorization": "Basic " + b64encode(":".join(self.login).encode()).decode()}


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    length: int  # bytes of the body


class Connection:
    """One connection to a host, for one request after the other."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), _TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_READ)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Iterable[bytes | memoryview] = (),
    ) -> Reply:
        """The reply, its body read and dropped."""
        self._socket.sendall(request_bytes(method, path, self._host, headers))
        for piece in body:
            self._socket.sendall(piece)
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._socket.recv(64 * 1024)
            if not data:
                raise ConnectionError(f"{self._host} closed the connection without a reply")
            head += data
        head, _, begun = head.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        found = {name.lower(): value.strip() for name, _, value in pairs}
        length = 0 if method == "HEAD" else int(found.get("content-length", "0"))
        self._drop(length - len(begun))
        return Reply(int(status.split()[1]), found, length)

    def _drop(self, left: int) -> None:
        while left > 0:
            count = self._socket.recv_into(self._buffer, min(left, _READ))
            if count == 0:
                raise ConnectionError(f"{self._host} broke off, {left} bytes before the end")
            left -= count


def request_bytes(method: str, path: str, host: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def pull(server: Server, path: str, size: int) -> None:
    """GET a blob as any client does: to where it is redirected, without credentials there."""
    url, headers = urljoin(server.url, path), server.headers
    while True:
        with Connection(url) as connection:
            reply = connection.ask("GET", path_of(url), headers)
        if reply.status != 307:
            break
        url, headers = urljoin(url, reply.headers["location"]), {}
    if (reply.status, reply.length) != (200, size):
        raise AssertionError(f"{url}: {reply}")


def pull_rate(server: Server, path: str, size: int, *, clients: int = 1) -> float:
    """Bytes a second that so many clients at once get in all."""
    return clients * size / _together(clients, lambda: pull(server, path, size))


def push(server: Server, repository: str, content: Content, *, chunked: bool = False) -> None:
    """As BuildKit does, POST and one PUT; `chunked`: as docker does, POST, PATCH, empty PUT."""
    octets = {**server.headers, "Content-Type": "application/octet-stream"}
    url = urljoin(server.url, f"/v2/{repository}/blobs/uploads/")
    with Connection(url) as connection:
        nothing = {**server.headers, "Content-Length": "0"}
        reply = connection.ask("POST", path_of(url), nothing)
        if chunked:
            url = urljoin(url, reply.headers["location"])
            framed = {**octets, "Transfer-Encoding": "chunked"}
            reply = connection.ask("PATCH", path_of(url), framed, _frames(content))
        url = urljoin(url, reply.headers["location"])
        url += f"{'&' if '?' in url else '?'}digest={content.digest}"
        if chunked:
            reply = connection.ask("PUT", path_of(url), nothing)
        else:
            sized = {**octets, "Content-Length": str(content.size)}
            reply = connection.ask("PUT", path_of(url), sized, content.pieces())
    if reply.status != 201:
        raise AssertionError(f"{url}: {reply}")


def push_manifest(server: Server, repository: str, tag: str, manifest: bytes) -> Digest:
    path = f"/v2/{repository}/manifests/{tag}"
    media_type = "application/vnd.oci.image.manifest.v1+json"
    headers = {"Content-Type": media_type, "Content-Length": str(len(manifest)), **server.headers}
    with Connection(server.url) as connection:
        reply = connection.ask("PUT", path, headers, [manifest])
    if reply.status != 201:
        raise AssertionError(f"{path}: {reply}")
    return Digest.of(manifest)


def _frames(content: Content) -> Iterable[bytes]:
    for piece in content.pieces():
        for start in range(0, len(piece), _DOCKER_CHUNK):
            part = piece[start : start + _DOCKER_CHUNK]
            yield b"%x\r\n%b\r\n" % (len(part), bytes(part))
    yield b"0\r\n\r\n"


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _together(clients: int, work: Callable[[], None]) -> float:
    """Seconds until the last of so many is done."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 raised below, in the thread that asked
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    return seconds
