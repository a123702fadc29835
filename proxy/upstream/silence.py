"""The wait for an answer once a request is out, where aiohttp forgets its own limit on it.

aiohttp stops its clock at an interim reply (RFC 9110 §15.2) and begins it anew when more comes: for
the reply that must follow it would wait for ever.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace, TracebackType
from typing import Final, Self

import aiohttp

# So that of two limits on the same silence it is aiohttp's that is met, whose error says more.
_LONGER: Final = 1.25


class AnswerLimit:
    """A context in which a request is made: raises `TimeoutError` when no answer has begun so many
    seconds after the last byte was sent. `length` is that of the request's body.

    The session must have been opened with `tracing`, and the limit be the request's trace context.
    """

    def __init__(self, seconds: float, length: int) -> None:
        self._seconds = seconds * _LONGER
        self._left = length
        self._timeout = asyncio.timeout(None)
        self._is_over = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True  # the rest of a body may still be sent, after an early answer
        await self._timeout.__aexit__(kind, error, trace)

    def sent(self, size: int) -> None:
        """So many bytes of the body are out, after the headers."""
        self._left -= size
        if self._left <= 0 and not self._is_over and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)


def tracing() -> aiohttp.TraceConfig:
    """What tells the `AnswerLimit` of each request what was sent of it."""

    async def headers_sent(
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        __: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        context.trace_request_ctx.sent(0)

    async def chunk_sent(
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestChunkSentParams,
    ) -> None:
        context.trace_request_ctx.sent(len(params.chunk))

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(headers_sent)
    config.on_request_chunk_sent.append(chunk_sent)
    return config
