"""Which clients count as slow: what they have sent keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from proxy.services.pulse import Pulse
from tests.clocks import Clock

MIB = 1024 * 1024


class Upload:
    """A pulse, and what it told of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pulse = Pulse(self.clock)
        self.told: list[str] = []

    async def send(self, *steps: tuple[float, int], reading: float = 0.0) -> None:
        """A body: after so many seconds each, so many bytes."""

        async def body() -> AsyncIterator[bytes]:
            for seconds, size in steps:
                self.clock.now += seconds
                yield b"x" * size

        watched = self.pulse.watch(
            body(),
            slow=lambda: self.told.append("slow"),
            quick=lambda: self.told.append("quick"),
        )
        async for _ in watched:
            self.clock.now += reading


async def test_a_client_that_sends_enough_is_quick() -> None:
    upload = Upload()
    await upload.send(*[(1.0, MIB // 4)] * 40)
    assert not upload.pulse.is_slow
    assert set(upload.told) == {"quick"}


async def test_one_that_drips_is_slow_over_any_number_of_requests() -> None:
    upload = Upload()
    for _ in range(6):
        await upload.send((1.0, 1))
    assert upload.pulse.is_slow


async def test_the_time_between_requests_is_the_clients() -> None:
    upload = Upload()
    for _ in range(6):
        upload.clock.now += 1.0
        await upload.send((0.0, 1))
    assert upload.pulse.is_slow


async def test_the_time_that_is_taken_over_a_piece_is_not_the_clients() -> None:
    upload = Upload()
    await upload.send(*[(0.1, MIB // 8)] * 8, reading=60.0)
    assert not upload.pulse.is_slow


async def test_one_that_sends_enough_again_is_quick_again() -> None:
    upload = Upload()
    await upload.send((60.0, 1))
    assert upload.pulse.is_slow
    await upload.send((0.1, MIB))
    assert upload.pulse.is_slow  # the minute before was for these
    await upload.send((0.1, MIB))
    assert upload.told == ["quick"]


async def test_one_that_sends_nothing_is_slow_while_it_is_waited_for() -> None:
    upload = Upload()
    upload.clock.now += 60.0
    gate, slow = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"x"

    async def read() -> None:
        async for _ in upload.pulse.watch(body(), slow=slow.set, quick=slow.clear):
            pass

    reading = asyncio.create_task(read())
    await slow.wait()
    assert not reading.done()
    gate.set()
    await reading
