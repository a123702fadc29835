"""Recorded exchanges of real clients, made replayable (tests/vectors/traces).

Bodies over 20 kB were recorded as hash and size only. In their place stands other content of the
same size, and every digest that depends on one is replaced wherever it is named: in paths, in the
cacheconfig, in manifests, and so on to the digests of those.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from proxy.oci import Digest

TRACES = Path(__file__).parent / "vectors" / "traces"

_HEX = re.compile(r"[a-f0-9]{64}")
# What belongs to the connection rather than to the client's question.
_DROPPED = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a client, and what it got then."""

    method: str
    path: str
    headers: CIMultiDict[str]  # clients send several Accept lines
    body: bytes
    status: int
    reply_headers: dict[str, str]
    reply_body: bytes | None  # None: not recorded


class Replay:
    """Reads traces of one story; what was replaced in an export is replaced in its import too."""

    def __init__(self) -> None:
        self._replaced: dict[str, str] = {}

    def read(self, name: str) -> list[Exchange]:
        """The exchanges of `name`.jsonl, in order."""
        with (TRACES / f"{name}.jsonl").open() as lines:
            records = [json.loads(line) for line in lines]
        bodies = [record[side] for record in records for side in ("request_body", "response_body")]
        for body in bodies:
            if isinstance(body, dict) and "sha256" in body:
                filler = _filler(body["sha256"], body["size"])
                self._replaced.setdefault(body["sha256"], Digest.of(filler).hex)
        # Uploads overlap: a manifest may come before the config that it names.
        texts = [body for body in bodies if isinstance(body, str)]
        while sum(self._learn(text) for text in texts):
            pass
        return [self._exchange(record) for record in records]

    def _learn(self, body: str) -> bool:
        """Whether the digest of a body changes with the ones in it, as far as they are known."""
        old, new = (Digest.of(text.encode()).hex for text in (body, self._text(body)))
        if self._replaced.get(old, old) == new:
            return False
        self._replaced[old] = new
        return True

    def _exchange(self, record: dict[str, Any]) -> Exchange:
        return Exchange(
            method=record["method"],
            path=self._text(record["path"]),
            headers=CIMultiDict(
                (name, value)
                for name, value in record["request_headers"]
                if name.lower() not in _DROPPED
            ),
            body=self._body(record["request_body"]) or b"",
            status=record["status"],
            reply_headers={k: self._text(v) for k, v in record["response_headers"]},
            reply_body=self._body(record["response_body"]),
        )

    def _body(self, body: Any) -> bytes | None:
        if isinstance(body, str):
            return self._text(body).encode()
        if "base64" in body:
            return base64.b64decode(body["base64"])
        return _filler(body["sha256"], body["size"])

    def _text(self, text: str) -> str:
        return _HEX.sub(lambda match: self._replaced.get(match[0], match[0]), text)


def _filler(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def names() -> Iterator[str]:
    """All recorded traces."""
    return (path.stem for path in sorted(TRACES.glob("*.jsonl")))
