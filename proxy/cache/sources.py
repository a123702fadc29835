"""Where a blob's bytes come from, seen from the cache: something that can be asked again.

Nothing here knows who is asked, or how.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from types import TracebackType
from typing import Final, Protocol

from proxy.cache.errors import Corrupt, FillFailed
from proxy.oci import Digest

# How often in a row a source is asked again without a byte of progress.
_ATTEMPTS: Final = 3


class SourceStream(Protocol):
    """A blob's bytes on their way."""

    @property
    def total(self) -> int | None:
        """The whole blob's size in bytes, None if it is not known."""

    @property
    def start(self) -> int:
        """The offset of the first byte of `chunks`; 0 where the source cannot begin elsewhere."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes up to the end. Asked for once."""


class Source(Protocol):
    """A blob that can be opened at any offset, as often as need be."""

    def open(self, start: int) -> AbstractAsyncContextManager[SourceStream]: ...


class Tap:
    """A source's bytes from an offset on, asked for again where they break off.

    Entering opens the source and raises what it raises. `position` is the offset after the last
    byte given; `total` the blob's size in bytes, None where the source does not say and nobody
    expected one.
    """

    def __init__(
        self, source: Source, digest: Digest, start: int = 0, *, expected: int | None = None
    ) -> None:
        self.position = start
        self.total = expected
        self._source = source
        self._digest = digest
        self._stack = AsyncExitStack()
        self._stream: SourceStream | None = None

    async def __aenter__(self) -> Tap:
        self._stream = await self._stack.enter_async_context(self._source.open(self.position))
        if self._stream.total is not None:
            self.total = self._stream.total
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes from `position` to the end.

        Raises `FillFailed` when they cannot be had, `Corrupt` when they are more than `total`.
        """
        failures = 0
        while True:
            before = self.position
            cut: Exception | None = None
            try:
                async with aclosing(self._stretch()) as stretch:
                    async for chunk in stretch:
                        yield chunk
            except FillFailed:
                raise
            except Exception as error:  # noqa: BLE001 whatever it is, the bytes stopped coming
                cut = error
            if cut is None and self.total in (None, self.position):
                return
            failures = 0 if self.position > before else failures + 1
            if failures == _ATTEMPTS:
                whole = "" if self.total is None else f" of {self.total}"
                raise FillFailed(
                    f"{self._digest} broke off after {self.position}{whole} bytes "
                    f"and could not be continued: {cut or 'the source ended early'}"
                ) from cut

    async def _stretch(self) -> AsyncGenerator[bytes, None]:
        """What one opening of the source gives beyond `position`."""
        stream = self._stream or await self._reopen()
        self._stream = None  # its bytes come once
        # A source that cannot begin in the middle begins anew: what is known is passed over.
        skip = self.position - stream.start
        if skip < 0:
            raise ValueError(f"asked from byte {self.position}, it began at {stream.start}")
        async with _closing(stream.chunks()) as chunks:
            async for chunk in chunks:
                fresh = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if not fresh:
                    continue
                if self.total is not None and self.position + len(fresh) > self.total:
                    raise Corrupt(f"{self._digest}: more bytes came than its {self.total}")
                self.position += len(fresh)
                yield fresh

    async def _reopen(self) -> SourceStream:
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
        stream = await self._stack.enter_async_context(self._source.open(self.position))
        if stream.total is not None and self.total is not None and stream.total != self.total:
            raise ValueError(f"its size was {self.total} bytes and is {stream.total} now")
        return stream


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close what can be closed as soon as nobody reads on, not when it is collected."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
