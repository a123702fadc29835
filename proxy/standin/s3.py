"""The fake S3: presigned downloads, refusals in S3's XML (ECR.md §3 "GET blob").

It knows nothing of registries but where a repository's blobs are.
"""

from __future__ import annotations

import re
import secrets
from typing import Final
from xml.sax.saxutils import escape

from proxy.oci import Digest
from proxy.standin.exchange import Call
from proxy.standin.faults import Fault
from proxy.standin.presign import Presigner, Verdict, expiry
from proxy.standin.replies import FilePart, Reply
from proxy.standin.repository import Blob
from proxy.standin.state import State

_PATH = re.compile(r"/[0-9a-f]{4}-\d{12}-(?P<uid>[0-9a-f]{32})/(?P<hex>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_CODES: Final = {
    400: ("BadRequest", "Bad Request"),
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


class FakeS3:
    """Answers on the S3 port."""

    def __init__(self, state: State, presigner: Presigner) -> None:
        self._state = state
        self._presigner = presigner

    async def answer(self, call: Call) -> Reply:
        if self._state.s3_slow_down:
            return _error(503, *_CODES[503])
        authorization = call.headers.get("Authorization")
        if authorization is not None:
            return _error(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "
                "Signature query string parameter or the Authorization header should be specified",
                ArgumentName="Authorization",
                ArgumentValue=authorization[:40],
            )
        now = self._state.clock.stamp()
        verdict = self._presigner.check(call.method, call.host, call.target, now)
        if verdict is Verdict.UNSIGNED:
            return _error(403, "AccessDenied", "Access Denied")
        if verdict is Verdict.MISMATCH:
            return _error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )
        if verdict is Verdict.EXPIRED:
            if self._state.settings.expired_url_status == 400:
                return _error(400, "ExpiredToken", "The provided token has expired.")
            return _error(
                403,
                "AccessDenied",
                "Request has expired",
                Expires=f"{expiry(call.target):%Y-%m-%dT%H:%M:%SZ}",
                ServerTime=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            )
        return self._download(call)

    def fault_reply(self, call: Call, fault: Fault) -> Reply:
        """An outage in S3's style; 503 is its way to throttle (O)."""
        status = fault.status or 500
        if fault.body is not None:
            return Reply(status, dict(fault.headers), fault.body.encode())
        reply = _error(status, *_CODES.get(status, ("InternalError", "Internal Error")))
        return Reply(status, dict(reply.headers) | dict(fault.headers), reply.body)

    def _download(self, call: Call) -> Reply:
        blob = self._find(call.path)
        if blob is None:
            return _error(404, *_CODES[404])
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Server": "AmazonS3",
            "ETag": f'"{blob.digest.hex[:32]}"',
        }
        path = self._state.files.path_of(blob.digest)
        text = call.headers.get("Range")
        if text is None:
            return Reply(200, headers, FilePart(path, blob.size, 0, blob.size))
        span = None if call.plan.has("ignore_range") else parse_range(text, blob.size)
        if span is None:
            return Reply(200, headers, FilePart(path, blob.size, 0, blob.size, plain=False))
        if span[0] >= span[1]:
            reply = _error(
                416,
                "InvalidRange",
                "The requested range is not satisfiable",
                RangeRequested=text,
                ActualObjectSize=str(blob.size),
            )
            return Reply(
                416, {**reply.headers, "Content-Range": f"bytes */{blob.size}"}, reply.body
            )
        return Reply(206, headers, FilePart(path, blob.size, *span))

    def _find(self, path: str) -> Blob | None:
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        for repository in self._state.repositories.values():
            if repository.uid == match["uid"]:
                return repository.blobs.get(Digest(f"sha256:{match['hex']}"))
        return None


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First byte and end (exclusive); first ≥ end when unsatisfiable; None when S3 ignores it.

    Source: RFC 9110 §14.1.2; S3 answers several ranges, and what is no range, with everything.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    first = int(match[1])
    if not match[2]:
        return first, size
    if int(match[2]) < first:
        return None
    return first, min(int(match[2]) + 1, size)


def _error(status: int, code: str, message: str, **details: str) -> Reply:
    fields = {
        "Code": code,
        "Message": message,
        **details,
        "RequestId": secrets.token_hex(8).upper(),
    }
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in fields.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return Reply(status, {"Content-Type": "application/xml", "Server": "AmazonS3"}, body.encode())
