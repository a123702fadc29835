"""One blob's way upstream: in parts that every registry takes, and anew as often as it breaks off.

Whatever pieces a client sends, upstream gets parts that every registry takes (ECR wants each part
but the last to be 5 MiB or more).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxy.errors import Internal, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.services.outgoing import UpstreamUpload
from proxy.services.uplink import Trouble, Uplink

_log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 30.0
# While a client waits, who gives up before such a pause is over; and for how long it counts as
# waiting, in seconds, after it was last heard of.
_LONGEST_HURRIED: Final = 4.0
_HURRY_SECONDS: Final = 30.0
# What a registry says of bytes that were right when they left here, and may be on the way anew.
_MANGLED: Final = frozenset({"BLOB_UPLOAD_INVALID", "DIGEST_INVALID"})


class GivenUp(RegistryError):
    """What was to be sent is not sent any more: it was deleted, or upstream never took it."""

    code = "MANIFEST_BLOB_UNKNOWN"
    status = 404


class Transfer:
    """A task that sends a blob while it is still being received, and ends when upstream has it.

    It is told what is there (`grow`), and that it is all (`finish`). Its failures pass, and it
    tries again for as long as it is let; one that does not ends it, as `failure`.
    """

    def __init__(
        self,
        upload: UpstreamUpload,
        uplink: Uplink,
        events: Events,
        *,
        first_pause: float,
    ) -> None:
        self.share = uplink.join()
        self.failure: RegistryError | None = None
        self.is_done = False
        self.may_be_upstream = False
        self._upload = upload
        upload.moved = uplink.moved
        self._uplink = uplink
        self._events = events
        self._first_pause = first_pause
        self._size = 0
        self._digest: Digest | None = None
        self._halting = False
        self._more = asyncio.Event()
        self._hurried = asyncio.Event()
        self._hurried_until = 0.0  # by the loop's clock
        self._trouble: Trouble | None = None
        self._furthest = 0  # how many bytes were confirmed at most, whatever was lost again since
        self._failures = 0  # at that point
        self._failing_since: float | None = None  # at that point, by the uplink's clock
        self._was_mangled = False
        self._task: asyncio.Task[None] | None = None
        self._ended: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        return self.is_done or self.failure is not None

    def when_over(self, call: Callable[[], None]) -> None:
        """Have something called when it is done or has failed for good; at once if it is."""
        if self.is_over:
            call()
        else:
            self._ended.append(call)

    def grow(self, size: int) -> None:
        """The first `size` bytes can be read. Raises what it has failed with."""
        if self.failure is not None:
            raise self.failure
        self._size = size
        if self._task is None and size < self._part:
            return  # most blobs are smaller, and go as a whole
        self._go_on()

    def finish(self, digest: Digest, size: int) -> None:
        """All of its bytes can be read, and hash to the digest."""
        self._size, self._digest = size, digest
        self._go_on()

    async def admit(self, size: int) -> None:
        """Wait until `size` bytes more may be taken in; raises as `settled`."""
        if self.failure is not None:
            raise self.failure
        await self._uplink.admit(self.share, size, part=self._reconsider)

    async def promise(self) -> None:
        """Wait until all of it, which is here, may be owed, or is upstream; raises as `settled`."""
        await self._uplink.promise(self.share, unless=lambda: self.is_over)
        if self.failure is not None:
            raise self.failure

    def count(self) -> None:
        """A client was, or is about to be, told that upstream will have it."""
        self._uplink.count(self.share)

    def owe(self, size: int) -> None:
        """So many bytes are owed that nobody has asked for admission of."""
        self._uplink.owe(self.share, size)

    def pause(self) -> None:
        """No client goes on with it for now."""
        self._uplink.pause(self.share)

    def resume(self) -> None:
        self._uplink.resume(self.share)

    def hurry(self) -> None:
        """A client waits for its end: it goes first, and sleeps no longer over past trouble."""
        self._uplink.hurry(self.share)
        self._hurried_until = asyncio.get_running_loop().time() + _HURRY_SECONDS
        self._hurried.set()

    async def over(self) -> None:
        """Wait until it is done or has failed for good, however long that takes."""
        await self._uplink.until(lambda: self.is_over, lambda: None)

    async def settled(self) -> None:
        """Wait until upstream has it; raises what it failed with, or trouble that does not pass."""
        self.hurry()
        await self._uplink.until(lambda: self.is_over, lambda: self._trouble)
        if self.failure is not None:
            raise self.failure

    async def halt(self) -> UpstreamUpload:
        """End the task between two parts, for somebody else to go on with what is upstream.

        Raises what it failed with, or trouble that does not pass; then it goes on itself.
        """
        self._halting = True
        self._more.set()
        try:
            if self._task is not None:
                await self._uplink.until(
                    lambda: self._task is None or self._task.done(), lambda: self._trouble
                )
        except BaseException:
            self._halting = False
            if self._task is not None and self._task.done() and not self.is_over:
                self._task = None
                self._go_on()
            raise
        if self.failure is not None:
            raise self.failure
        self._uplink.leave(self.share)
        return self._upload

    async def cancel(self, *, upstream: bool = True) -> None:
        """Send no more of it, which whoever waits is told; `upstream`: tell the registry so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._uplink.leave(self.share)
        if not self.is_over:
            repository = self._upload.target.repository
            self._end(
                failure=GivenUp(f"a blob pushed to {repository} is owed no more: push it again")
            )
        if upstream:
            await self._upload.cancel()

    # The task

    @property
    def _part(self) -> int:
        return max(self._uplink.part_size(self._upload.sent), self._upload.min_part)

    def _reconsider(self) -> int:
        """What was less than a part may be one by now, where the line has become slower: it must
        not be waited for by those who would make it larger. Gives the bytes of a part."""
        part = self._part
        if self._size - self._upload.sent >= part:
            self._go_on()
        return part

    def _go_on(self) -> None:
        self._more.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._advance()
                except RegistryError as error:
                    if not await self._shall_try_again(error):
                        self._end(failure=error)
                        return
                else:
                    break
        except Exception as error:  # noqa: BLE001 whoever waits must hear of it
            _log.exception("a blob could not be sent")
            self._end(failure=Internal(f"the proxy failed to send a blob upstream: {error}"))
            return
        self._uplink.changed()
        if not self._halting:
            self._end(failure=None)

    async def _advance(self) -> None:
        while not self._halting:
            part, left = self._part, self._size - self._upload.sent
            if self._digest is not None and (left <= part or self._fits_in_one(part)):
                await self._commit(self._digest)
                return
            if left >= part and self._upload.upload is None:
                await self._upload.open()  # it says what the least of a part is
                self._uplink.changed()
            elif left >= part:
                await self._send(self._upload.sent + part)
            else:
                self._more.clear()
                await self._more.wait()

    def _fits_in_one(self, part: int) -> bool:
        # A round trip less for what is hardly more than a part.
        return self._upload.sent == 0 and self._size <= 2 * part

    async def _send(self, end: int) -> None:
        size = end - self._upload.sent
        async with self._uplink.turn(self.share, size):
            await self._upload.send(end)
        self._confirmed(size)

    async def _commit(self, digest: Digest) -> None:
        await self._upload.open()
        size = self._size - self._upload.sent
        async with self._uplink.turn(self.share, size):
            self.may_be_upstream = True  # from here on, whatever becomes of the reply
            await self._upload.commit(digest, self._size)
        self._confirmed(size)

    def _confirmed(self, size: int) -> None:
        self._uplink.owe(self.share, -size)
        self._uplink.worked()
        self._trouble = None
        if self._upload.sent > self._furthest:
            # Not before: what fails at one point over and over gets as far as that each time.
            self._furthest = self._upload.sent
            self._failures, self._failing_since = 0, None
            if self._digest is not None:
                self._uplink.resume(self.share)

    async def _shall_try_again(self, error: RegistryError) -> bool:
        """Whether another upload may do better, after a pause."""
        self._uplink.owe(self.share, self._upload.sent)  # it is owed again
        self._upload.forget()
        if is_of_bytes(error) and not self._was_mangled:
            self._was_mangled = True
        elif not is_passing(error):
            return False
        now = self._uplink.failed(error).since
        if self._failing_since is None:
            self._failing_since = now
        self._trouble = Trouble(error, self._failing_since)
        if self._digest is not None and self._uplink.is_passable(since=self._failing_since):
            # Only this one fails: it takes up nothing of what all may owe, for as long as it does.
            self._uplink.pause(self.share)
        if self._failures == 0:  # once, and not as long as it goes on
            registry, repository = self._upload.target.key
            detail = f"upload begun anew: {error.message}"
            self._events.emit(Event(Kind.TROUBLE, registry, repository, detail=detail))
        hurried = asyncio.get_running_loop().time() < self._hurried_until
        longest = _LONGEST_HURRIED if hurried else _LONGEST_PAUSE
        pause = min(self._first_pause * 2**self._failures, longest)
        self._failures = min(self._failures + 1, 16)
        # Jitter, so that many that were throttled together do not come back together.
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 no secret
        # What upstream asks for is kept whoever waits; the rest ends when somebody begins to.
        asked = min(error.retry_after or 0.0, _LONGEST_PAUSE)
        self._hurried.clear()
        await asyncio.sleep(asked)
        with suppress(TimeoutError), self._uplink.sleeping(self._hurried):
            async with asyncio.timeout(pause - asked):
                await self._hurried.wait()
        return True

    def _end(self, *, failure: RegistryError | None) -> None:
        self.failure = failure
        self.is_done = failure is None
        self._uplink.leave(self.share)
        ended, self._ended = self._ended, []
        for call in ended:
            call()
        self._uplink.changed()


def is_of_bytes(error: RegistryError) -> bool:
    """Whether upstream got other bytes than it was told."""
    return error.wire_code in _MANGLED


def is_passing(error: RegistryError) -> bool:
    """Whether a new upload may succeed where this one failed.

    Besides upstream's trouble: an upload that it has lost, an offset that it does not share (a
    stream that was dropped cannot be continued within the same upload, ECR.md §4), and a token that
    ran out while the request for which it was renewed was under way (§2).
    """
    return (
        error.wire_status >= 500
        or error.wire_status in (408, 416, 429)
        or error.wire_code == "BLOB_UPLOAD_UNKNOWN"
        or (error.wire_code == "DENIED" and "token has expired" in error.message)
    )
