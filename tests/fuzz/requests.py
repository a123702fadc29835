"""Requests of clients as bytes: of every kind that the registry API has, changed at some places.

A `sound` one has the framing that it says, so that exactly one reply follows, on a connection that
may be used again. Any other is whatever it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from proxy.oci import MANIFEST_TYPES, Digest
from tests.fuzz.access_words import AUTHORIZATIONS
from tests.fuzz.client_words import (
    ACCEPTS,
    CHUNKS,
    DIGEST,
    LONG_DIGEST,
    METHOD_NAMES,
    PATHS,
    RANGES,
    REFERENCES,
    TOKEN,
    USER_AGENTS,
)
from tests.fuzz.documents import Documents
from tests.fuzz.mutation import Mutator

REPOSITORY: Final = "fuzz/app"
BLOB: Final = b"a blob that is there" * 50
CONTENT: Final = b'{"a":"config"}'
# Enough for uploads to be found again, and no more than a client may have open.
_OPEN_UPLOADS: Final = 48

_QUERIES: Final = (
    *("n=10", "n=0", "last=a", "n=2&last=%2B%3D", "artifactType=a%2Fb", "next_page=x"),
    *("ns=123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ns=registry.example", "tag=a&tag=b"),
    *(f"digest={DIGEST}", f"mount={DIGEST}&from=app", f"mount={DIGEST}", "digest-algorithm=sha512"),
)
_HEADERS: Final = (
    *("Connection: keep-alive", "Connection: close", "Connection: upgrade", "Upgrade: websocket"),
    *("Expect: 100-continue", "Cookie: a=b", "Pragma: no-cache", "Max-Forwards: 0"),
    *("If-None-Match: *", 'If-Match: "x"', "If-Range: x", "If-Modified-Since: x", "TE: trailers"),
    *("Cache-Control: no-cache", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=x", "Via: 1.1 x"),
    *("Accept-Encoding: gzip, br", "Content-Encoding: gzip", "Content-Language: x", "Date: x"),
    *("Ecr-Cache-Proxy: 0.1.0", "Ecr-Cache-Proxy-Age: 5", "Origin: x", "Trailer: Content-Length"),
    *("Content-Type: application/vnd.oci.image.index.v1+json; charset=utf-8", "Range: bytes=0-1"),
    *("Proxy-Authorization: x", "Keep-Alive: timeout=5", "HTTP2-Settings: AAMAAABk", "A: b"),
)
# What decides where a message ends (RFC 9112 §6): said twice, or otherwise, two may disagree.
_FRAMINGS: Final = (
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: +5", "Content-Length: 5, 5"),
    *("Content-Length: 0x5", "Content-Length: 5 ", "Content-Length:", "Content-Length : 5"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: x"),
    *("Transfer-Encoding: chunked, identity", "Transfer-Encoding:\tchunked", "Host: a\r\nHost: b"),
    *("Transfer-Encoding: chunked\r\nContent-Length: 5", " folded: x", "no colon", ": no name"),
    *("Content-Length: 99999999999999999999", "Expect: 200-ok", "Sec-WebSocket-Key1: x"),
)
_CHUNKED: Final = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;ext=1\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"ffffffffffffffff\r\nhello",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"00000000000000000000005\r\nhello\r\n0\r\n\r\n",
)
_LINES: Final = (
    *(b"GET /v2/ HTTP/1.1", b"GET /v2/ HTTP/1.0", b"GET /v2/ HTTP/0.9", b"GET /v2/"),
    *(b"GET /v2/ HTTP/2.0", b"GET http://other.example/v2/ HTTP/1.1", b"CONNECT a:443 HTTP/1.1"),
    *(b"OPTIONS * HTTP/1.1", b"GET  /v2/  HTTP/1.1", b"PRI * HTTP/2.0", b"GET \xff\xfe HTTP/1.1"),
    *(b"GET //v2/ HTTP/1.1", b"GET /v2/%ff/manifests/x HTTP/1.1", b"\r\n\r\nGET /v2/ HTTP/1.1"),
    *(b"GET http:// HTTP/1.1", b"GET http://[::1 HTTP/1.1", b"GET http://a:b@c:99999/ HTTP/1.1"),
    *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET ? HTTP/1.1", b"GET # HTTP/1.1"),
)
_KNOWN: Final = [name for name in METHOD_NAMES if name.isupper() and name not in ("CONNECT", "X")]
_SAFE: Final = "/:@!$&'()*+,;=-._~%?#[]|\"<>{}^`\\"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: its method decides whether a reply has a body."""

    method: str
    data: bytes
    sound: bool


class Requests:
    """Draws requests; remembers the uploads that were opened, and has the oldest ones closed."""

    def __init__(
        self, mutator: Mutator, digests: Sequence[str], *, authorization: str | None = None
    ) -> None:
        """`digests` of blobs and manifests that are there; `authorization` lets a client in."""
        self._authorization = authorization
        self._mutator = mutator
        self._documents = Documents(mutator)
        self._there = tuple(digests)
        self._uploads: deque[str] = deque()
        self._kinds: tuple[Callable[[], Sent], ...] = (
            *([self._read] * 30 + [self._ranged] * 8 + [self._manifest] * 7 + [self._listed] * 7),
            *([self._push] * 8 + [self._upload] * 14 + [self._headed] * 6 + [self._asked] * 6),
            *([self._broken] * 6 + [self._framed] * 4 + [self._chunked] * 2 + [self._lined] * 2),
        )

    def draw(self) -> Sent:
        if len(self._uploads) > _OPEN_UPLOADS:
            return self._sound("DELETE", self._uploads.popleft())
        return self._mutator.one(self._kinds)()

    def opened(self, location: str) -> None:
        """A reply named the location of an upload."""
        if location not in self._uploads:
            self._uploads.append(location)

    # What is sound

    def _read(self) -> Sent:
        return self._sound(self._method("GET", "HEAD"), self._mutator.text(PATHS))

    def _ranged(self) -> Sent:
        header = f"Range: {self._mutator.text(RANGES)}"
        path = f"/v2/{REPOSITORY}/blobs/{self._mutator.one(self._there)}"
        return self._sound(self._mutator.one(("GET", "GET", "HEAD")), path, header)

    def _manifest(self) -> Sent:
        mutator = self._mutator
        reference = mutator.text((*REFERENCES[:3], *self._there), unchanged=0.6)
        headers = [f"Accept: {mutator.text(ACCEPTS)}", f"User-Agent: {mutator.text(USER_AGENTS)}"]
        path = f"/v2/{REPOSITORY}/manifests/{reference}"
        return self._sound(self._method("GET", "HEAD", "DELETE"), path, *headers)

    def _listed(self) -> Sent:
        nouns = ("tags/list", f"referrers/{DIGEST}", f"referrers/{LONG_DIGEST}")
        paths = ("/v2/_catalog", *(f"/v2/{REPOSITORY}/{noun}" for noun in nouns))
        query = self._mutator.text(_QUERIES, unchanged=0.3)
        return self._sound("GET", f"{self._mutator.one(paths)}?{query}")

    def _push(self) -> Sent:
        """A manifest's PUT."""
        mutator = self._mutator
        reference = mutator.text(REFERENCES, unchanged=0.8)
        query = f"?{mutator.text(_QUERIES)}" if mutator.often(0.1) else ""
        kind = mutator.text(MANIFEST_TYPES, unchanged=0.7)
        headers = [f"Content-Type: {kind}"] if mutator.often(0.8) else []
        path = f"/v2/{REPOSITORY}/manifests/{reference}{query}"
        return self._sound("PUT", path, *headers, body=self._documents.content())

    def _upload(self) -> Sent:
        mutator = self._mutator
        start = f"/v2/{REPOSITORY}/blobs/uploads/"
        if mutator.often(0.25) or not self._uploads:
            query = mutator.text(_QUERIES, unchanged=0.4) if mutator.often(0.4) else ""
            return self._sound("POST", f"{start}?{query}", body=CONTENT if query else b"")
        where = mutator.text((*self._uploads, f"{start}{TOKEN}"), unchanged=0.7)
        body = mutator.one((b"", CONTENT, b"x", BLOB))
        method = self._method("PATCH", "PUT", "PUT", "GET", "DELETE")
        headers = []
        if mutator.often(0.3):
            chunk = (f"0-{len(body) - 1}", *CHUNKS)
            headers.append(f"Content-Range: {mutator.text(chunk, unchanged=0.4)}")
        if method == "PUT":
            right = (str(Digest.of(body)), str(Digest.of(body)), str(Digest.of(body, "sha512")))
            digest = mutator.text((DIGEST, *right), unchanged=0.7)
            where += f"{'&' if '?' in where else '?'}digest={digest}"
        if mutator.often(0.2) and body:
            return self._in_chunks(method, where, headers, body)
        return self._sound(method, where, *headers, body=body)

    def _headed(self) -> Sent:
        """Headers of all kinds, and many of them."""
        mutator = self._mutator
        count = mutator.one((1, 1, 2, 5, 60))
        headers = [mutator.text(_HEADERS) for _ in range(count)]
        sent = self._sound("GET", mutator.text(PATHS, unchanged=0.7), *headers)
        if mutator.often(0.97):
            return sent
        size = mutator.one((4000, 8200, 60_000, 70_000, 140_000))
        line = b"X-Long: %b\r\n\r\n" % (b"x" * size)
        return Sent("GET", sent.data.removesuffix(b"\r\n") + line, sound=False)

    def _asked(self) -> Sent:
        mutator = self._mutator
        path = f"{mutator.text(PATHS, unchanged=0.7)}?{mutator.text(_QUERIES)}"
        return self._sound(self._method(*_KNOWN), path)

    def _method(self, *usual: str) -> str:
        if self._mutator.often(0.95):
            return self._mutator.one(usual)
        return self._mutator.one(_KNOWN)

    def _sound(self, method: str, path: str, *headers: str, body: bytes = b"") -> Sent:
        # What may not stand in a request line is escaped as a client does it: the rest is left as
        # it is, escapes that are none included.
        target = quote(path.encode("utf-8", "surrogatepass"), safe=_SAFE)
        target = target if target.startswith("/") else f"/{target}"
        # aiohttp takes no header twice that may be there once.
        tame = [line for header in headers if (line := _tame(header))]
        kept = list({line.partition(b":")[0].lower(): line for line in tame}.values())
        if body or method in ("PUT", "POST", "PATCH"):
            kept.append(f"Content-Length: {len(body)}".encode())
        lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: proxy", *kept, *self._login()]
        return Sent(method, b"\r\n".join((*lines, b"", body)), sound=True)

    def _login(self) -> list[bytes]:
        """The header that lets a client in, seldom another one, or none."""
        right, mutator = self._authorization, self._mutator
        if right is None or mutator.often(0.02):
            return []
        said = right if mutator.often(0.98) else mutator.text((right, *AUTHORIZATIONS))
        line = _tame(f"Authorization: {said}")
        return [line] if line else []

    def _in_chunks(self, method: str, path: str, headers: Sequence[str], body: bytes) -> Sent:
        whole = self._sound(method, path, *headers, "Transfer-Encoding: chunked").data
        head = whole.partition(b"\r\n\r\n")[0].replace(b"\r\nContent-Length: 0", b"")
        at = self._mutator.below(len(body)) + 1
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:at], body[at:]) if p)
        return Sent(method, head + b"\r\n\r\n" + pieces + b"0\r\n\r\n", sound=True)

    # What is not

    def _broken(self) -> Sent:
        """Any of the above with its bytes changed."""
        whole = self._mutator.one((self._read, self._push, self._upload, self._headed))()
        return Sent(whole.method, self._mutator.content((whole.data,), unchanged=0), sound=False)

    def _framed(self) -> Sent:
        mutator = self._mutator
        line = mutator.one((b"PUT /v2/fuzz/app/manifests/a HTTP/1.1", b"GET /v2/ HTTP/1.1"))
        headers = [mutator.text(_FRAMINGS, unchanged=0.5) for _ in range(mutator.one((1, 1, 2)))]
        body = mutator.one((b"hello", *_CHUNKED, b"", b"helloGET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"))
        encoded = [header.encode("utf-8", "surrogatepass") for header in headers]
        whole = (line, b"Host: a", *encoded, *self._login(), b"", body)
        return Sent("PUT", b"\r\n".join(whole), sound=False)

    def _chunked(self) -> Sent:
        mutator = self._mutator
        path = mutator.one((f"/v2/{REPOSITORY}/manifests/a", *self._uploads))
        lines = [f"PUT {path} HTTP/1.1".encode(), b"Host: a", b"Transfer-Encoding: chunked"]
        whole = (*lines, *self._login(), b"", mutator.content(_CHUNKED))
        return Sent("PUT", b"\r\n".join(whole), sound=False)

    def _lined(self) -> Sent:
        line = self._mutator.content(_LINES, unchanged=0.3)
        return Sent("GET", line + b"\r\nHost: a\r\n\r\n", sound=False)


def _tame(header: str) -> bytes:
    """A header that can be one and changes no framing; empty for what cannot (RFC 9110 §5.5)."""
    name, found, value = header.partition(":")
    plain = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-_"))
    lowered = plain.lower()
    if not found or not plain or lowered in ("content-length", "connection", "expect", "host"):
        return b""
    if lowered in ("transfer-encoding", "upgrade") and header != "Transfer-Encoding: chunked":
        return b""
    raw = value.encode("utf-8", "surrogatepass")
    clean = bytes(b for b in raw if b == 9 or (b >= 32 and b != 127))
    return plain.encode() + b":" + clean
