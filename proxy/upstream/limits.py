"""ECR's rates: each operation has its turn, so that ECR need not throttle (ECR.md §4).

What a request counts as is decided here; `client` waits for its turn before each attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from aiolimiter import AsyncLimiter

from proxy.upstream.errors import Kind

# Of ECR's figure: it measures by its own clock, and others may use the same account.
_SHARE: Final = 0.9
# So many seconds' worth may go at once, and one request always may.
_BURST_SECONDS: Final = 0.05
# ECR cuts a stream into parts of this size, and counts each (ECR.md §4).
_PART: Final = 10 * 1024 * 1024


class Operation(StrEnum):
    """ECR's own operations; requests to its registry API come down to them, too (ECR.md, top)."""

    BATCH_GET_IMAGE = "BatchGetImage"
    GET_DOWNLOAD_URL = "GetDownloadUrlForLayer"
    CHECK_LAYERS = "BatchCheckLayerAvailability"
    INITIATE_UPLOAD = "InitiateLayerUpload"
    UPLOAD_PART = "UploadLayerPart"
    COMPLETE_UPLOAD = "CompleteLayerUpload"
    PUT_IMAGE = "PutImage"
    CREATE_REPOSITORY = "CreateRepository"


# Requests a second, by account and region (ECR.md §4 "Rates per second").
ECR_RATES: Final[Mapping[str, float]] = {
    Operation.BATCH_GET_IMAGE: 2000,
    Operation.GET_DOWNLOAD_URL: 3000,
    Operation.CHECK_LAYERS: 1000,
    Operation.INITIATE_UPLOAD: 100,
    Operation.UPLOAD_PART: 500,
    Operation.COMPLETE_UPLOAD: 100,
    Operation.PUT_IMAGE: 10,
}

_BY_REQUEST: Final[Mapping[tuple[str, Kind], Operation]] = {
    ("GET", Kind.MANIFEST): Operation.BATCH_GET_IMAGE,
    ("HEAD", Kind.MANIFEST): Operation.BATCH_GET_IMAGE,
    ("PUT", Kind.MANIFEST): Operation.PUT_IMAGE,
    ("GET", Kind.BLOB): Operation.GET_DOWNLOAD_URL,
    ("HEAD", Kind.BLOB): Operation.CHECK_LAYERS,
    ("POST", Kind.REPOSITORY): Operation.INITIATE_UPLOAD,
    ("PUT", Kind.UPLOAD): Operation.COMPLETE_UPLOAD,
}


def count_operations(method: str, kind: Kind, length: int) -> Sequence[Operation]:
    """What ECR counts a request as that has a body of `length` bytes; nothing for most others."""
    parts: list[Operation] = []
    if kind is Kind.UPLOAD and method in {"PATCH", "PUT"}:
        parts = [Operation.UPLOAD_PART] * -(-length // _PART)
    operation = _BY_REQUEST.get((method, kind))
    return parts if operation is None else [*parts, operation]


class Limits:
    """Turns for the operations of one registry; a caller waits, first come, first served.

    It belongs to the event loop in which it is first used.
    """

    def __init__(self, rates: Mapping[str, float]) -> None:
        """`rates`: ECR's, in requests a second, by operation. What is not named has no limit."""
        self._paces = {
            operation: _Pace(rates[operation] * _SHARE)
            for operation in Operation
            if operation in rates
        }

    async def take(self, operations: Sequence[Operation]) -> None:
        """Wait until all of them may go."""
        for operation in operations:
            pace = self._paces.get(operation)
            if pace is not None:
                await pace.take()


class _Pace:
    """`rate` turns a second."""

    def __init__(self, rate: float) -> None:
        burst = max(1.0, rate * _BURST_SECONDS)
        self._limiter = AsyncLimiter(burst, burst / rate)
        # A limiter that is asked while others wait may let the newcomer pass them, over and over.
        self._queue = asyncio.Lock()

    async def take(self) -> None:
        async with self._queue:
            await self._limiter.acquire()
