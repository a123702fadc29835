"""Where a blob's bytes come from, seen from the cache: something that can be asked again.

Nothing here knows who is asked, or how.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from proxy.cache.errors import Corrupt, FillFailed
from proxy.errors import RangeInvalid, RegistryError
from proxy.oci import Digest


@dataclass(frozen=True, slots=True)
class Patience:
    """How a source that breaks off is asked again; times in seconds.

    `attempts` is how many in a row may bring less than `enough` bytes: what breaks off every few
    bytes for ever must end too. The first attempt after one that brought enough is made at once;
    before the others is a pause, jittered, of `first_pause` doubling up to `longest_pause`. None
    is made later than `silence` after the last byte: what stands between a client and us (load
    balancers, other proxies) commonly takes a connection for dead after 60 s, and the last attempt
    may have to find out by itself that nothing comes.
    """

    attempts: int = 6
    first_pause: float = 0.2
    longest_pause: float = 3.0
    silence: float = 45.0
    enough: int = 64 * 1024

    def pause(self, fruitless: int) -> float:
        """The seconds to wait after so many attempts in a row that brought too little."""
        if fruitless == 0:
            return 0.0
        longest = min(self.longest_pause, self.first_pause * 2.0 ** (fruitless - 1))
        # So that fills that broke off together do not all come back together.
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 no secret


PATIENCE = Patience()


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
    """A blob that can be opened at any offset, as often as need be.

    Nothing from `end` on is wanted; what comes beyond it all the same is passed over.
    """

    def open(
        self, start: int, end: int | None = None
    ) -> AbstractAsyncContextManager[SourceStream]: ...


class Tap:
    """A source's bytes from an offset on, asked for again where they break off.

    Entering opens the source and raises what it raises. `position` is the offset after the last
    byte given; `total` the blob's size in bytes, None where the source does not say and nobody
    expected one. With `end` nothing is given from that offset on, nor is the source asked for more.
    """

    def __init__(
        self,
        source: Source,
        digest: Digest,
        start: int = 0,
        *,
        end: int | None = None,
        expected: int | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self.position = start
        self.total = expected
        self._source = source
        self._digest = digest
        self._end = end
        self._patience = patience
        self._stack = AsyncExitStack()
        self._stream: SourceStream | None = None
        self._deadline = 0.0

    async def __aenter__(self) -> Tap:
        self._stream = await self._stack.enter_async_context(
            self._source.open(self.position, self._end)
        )
        if self._stream.total is not None:
            self.total = self._stream.total
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes from `position` to the end, the blob's or the one that was named.

        Raises `FillFailed` when they cannot be had, `Corrupt` when they are more or fewer than
        `total`.
        """
        fruitless = 0
        self._renew()
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
            # Where all bytes came, it does not matter how they ended: there are no more to ask for.
            if self._is_whole or (cut is None and self.total is None):
                return
            if isinstance(cut, RangeInvalid):
                raise Corrupt(
                    f"{self._digest}: {self.total} bytes were promised, and it ends at "
                    f"{self.position}: {cut}"
                ) from cut
            fruitless = 0 if self.position - before >= self._patience.enough else fruitless + 1
            if _is_final(cut) or not await self._pause(fruitless):
                whole = "" if self.total is None else f" of {self.total}"
                raise FillFailed(
                    f"{self._digest} broke off after {self.position}{whole} bytes "
                    f"and could not be continued: {cut or 'the source ended early'}"
                ) from cut

    @property
    def _is_whole(self) -> bool:
        return self.position in (self.total, self._end)

    async def _pause(self, fruitless: int) -> bool:
        """Wait until the source is to be asked again; False, at once, when it is not to be."""
        if fruitless >= self._patience.attempts:
            return False
        seconds = self._patience.pause(fruitless)
        if asyncio.get_running_loop().time() + seconds > self._deadline:
            return False
        await asyncio.sleep(seconds)
        return True

    async def _stretch(self) -> AsyncGenerator[bytes, None]:
        """What one opening of the source gives beyond `position`."""
        try:
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
                    self._renew()
                    if not fresh:
                        continue
                    if self.total is not None and self.position + len(fresh) > self.total:
                        raise Corrupt(f"{self._digest}: more bytes came than its {self.total}")
                    if self._end is not None:
                        fresh = fresh[: self._end - self.position]
                    self.position += len(fresh)
                    yield fresh
                    if self.position == self._end:
                        return  # what may come beyond is not wanted
                    self._renew()  # so long it was the source that waited
        finally:
            await self._close()  # nothing is held while there is a pause

    async def _reopen(self) -> SourceStream:
        try:
            async with asyncio.timeout_at(self._deadline):
                stream = await self._stack.enter_async_context(
                    self._source.open(self.position, self._end)
                )
        except TimeoutError as error:
            raise TimeoutError("the source did not answer in time") from error
        if stream.total is not None and self.total is not None and stream.total != self.total:
            raise ValueError(f"its size was {self.total} bytes and is {stream.total} now")
        return stream

    def _renew(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + self._patience.silence

    async def _close(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


def _is_final(error: Exception | None) -> bool:
    """Whether the source has refused the blob, rather than failed to give it."""
    return isinstance(error, RegistryError) and not error.is_trouble


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close what can be closed as soon as nobody reads on, not when it is collected."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
