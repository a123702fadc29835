"""The token that is kept fresh, whoever gives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.errors import RegistryError, Unavailable
from proxy.events import Events, Kind
from proxy.upstream.tokens import Token, TokenKeeper
from proxy.upstream.values import Tuning
from tests.upstream.fakes import QUICK, Told


class Source:
    """Gives tokens t1, t2, ...; waits at its gate, fails while it has errors to fail with."""

    def __init__(self) -> None:
        self.count = 0
        self.lifetime = 43200.0
        self.errors: list[RegistryError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def __call__(self) -> Token:
        self.count += 1
        self.asked.set()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return Token(f"t{self.count}", self.lifetime)


@pytest.fixture
async def source() -> Source:
    return Source()


MakeKeeper = Callable[[Tuning], TokenKeeper]


@pytest.fixture
async def make_keeper(source: Source, events: Events) -> AsyncIterator[MakeKeeper]:
    made: list[TokenKeeper] = []

    def make(tuning: Tuning = QUICK) -> TokenKeeper:
        made.append(TokenKeeper(source, registry="ecr.example", events=events, tuning=tuning))
        return made[-1]

    yield make
    for keeper in made:
        await keeper.close()


@pytest.fixture
def keeper(make_keeper: MakeKeeper) -> TokenKeeper:
    return make_keeper(QUICK)


async def test_one_request_serves_all_who_ask_at_once(keeper: TokenKeeper, source: Source) -> None:
    source.gate.clear()
    asking = [asyncio.create_task(keeper.header()) for _ in range(50)]
    await source.asked.wait()
    source.gate.set()
    assert set(await asyncio.gather(*asking)) == {"t1"}
    assert source.count == 1


async def test_caller_that_leaves_does_not_stop_the_request(
    keeper: TokenKeeper, source: Source
) -> None:
    source.gate.clear()
    leaving, staying = (asyncio.create_task(keeper.header()) for _ in range(2))
    await source.asked.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    source.gate.set()
    assert await staying == "t1"
    assert source.count == 1


async def test_many_refusals_are_one_refresh(keeper: TokenKeeper, source: Source) -> None:
    used = await keeper.header()
    keeper.accepted(used)
    await asyncio.gather(*(keeper.refresh(used) for _ in range(50)))
    assert source.count == 2
    assert await keeper.header() == "t2"


async def test_refusal_of_an_old_token_refreshes_nothing(
    keeper: TokenKeeper, source: Source
) -> None:
    used = await keeper.header()
    keeper.accepted(used)
    await keeper.refresh(used)
    await keeper.refresh(used)
    assert source.count == 2


async def test_token_that_was_never_accepted_is_not_replaced_at_every_refusal(
    keeper: TokenKeeper, source: Source
) -> None:
    for _ in range(10):
        await keeper.refresh(await keeper.header())
    assert source.count == 1


async def test_failure_keeps_the_old_token_and_says_so(
    keeper: TokenKeeper, source: Source, told: Told
) -> None:
    used = await keeper.header()
    keeper.accepted(used)
    source.errors.append(Unavailable("the moon is in the way"))
    with pytest.raises(Unavailable, match="moon"):
        await keeper.refresh(used)
    assert await keeper.header() == used
    assert keeper.problem() is None
    (trouble,) = told.of(Kind.TROUBLE)
    assert trouble.registry == "ecr.example"
    assert trouble.detail == "no new token, the old one stays in use: the moon is in the way"


async def test_failure_is_remembered_for_a_moment(keeper: TokenKeeper, source: Source) -> None:
    source.errors.append(Unavailable("no credentials"))
    for _ in range(5):
        with pytest.raises(Unavailable, match="no credentials"):
            await keeper.header()
    assert source.count == 1
    assert keeper.problem() == "no credentials"


async def test_credentials_that_appear_are_used(
    make_keeper: MakeKeeper, source: Source, told: Told
) -> None:
    keeper = make_keeper(Tuning(between=0.0))
    source.errors.append(Unavailable("no credentials"))
    with pytest.raises(Unavailable):
        await keeper.header()
    assert await keeper.header() == "t2"
    assert keeper.problem() is None
    assert [event.detail for event in told.of(Kind.TOKEN)] == ["valid for 12 h"]


async def test_background_finds_credentials_that_appear(
    make_keeper: MakeKeeper, source: Source, told: Told
) -> None:
    keeper = make_keeper(Tuning(between=0.0))
    source.errors.append(Unavailable("no credentials"))
    await keeper.start()
    assert keeper.problem() == "no credentials"
    await told.wait_for(Kind.TOKEN)
    assert keeper.problem() is None


async def test_background_renews_long_before_expiry(
    make_keeper: MakeKeeper, source: Source, told: Told
) -> None:
    keeper = make_keeper(Tuning(between=0.0))
    source.lifetime = 1.2
    started = asyncio.get_running_loop().time()
    await keeper.start()
    assert source.count == 1
    source.lifetime = 43200.0
    await told.wait_for(Kind.TOKEN, 2)
    assert asyncio.get_running_loop().time() - started < 1.2
    assert await keeper.header() == "t2"


async def test_failing_renewal_leaves_a_working_token_in_use(
    make_keeper: MakeKeeper, source: Source, told: Told
) -> None:
    keeper = make_keeper(Tuning(between=0.0))
    source.lifetime = 20.0
    source.errors = []
    await keeper.header()
    source.errors = [Unavailable("down")] * 100
    keeper.accepted("t1")
    with pytest.raises(Unavailable):
        await keeper.refresh("t1")
    assert await keeper.header() == "t1"
    assert source.count == 2


async def test_token_too_old_by_our_clock_is_still_tried(
    make_keeper: MakeKeeper, source: Source
) -> None:
    keeper = make_keeper(QUICK)
    source.lifetime = 0.0
    await keeper.header()
    source.errors.append(Unavailable("down"))
    assert await keeper.header() == "t1"
    assert source.count == 2
    assert keeper.problem() == "down"


async def test_start_does_not_wait_for_a_source_that_hangs(
    make_keeper: MakeKeeper, source: Source
) -> None:
    keeper = make_keeper(Tuning(start_wait=0.01))
    source.gate.clear()
    await keeper.start()
    problem = keeper.problem()
    assert problem is not None
    assert "not answered" in problem
    asking = asyncio.create_task(keeper.header())
    source.gate.set()
    assert await asking == "t1"
    assert source.count == 1


async def test_close_leaves_no_task(keeper: TokenKeeper, source: Source) -> None:
    before = asyncio.all_tasks()
    await keeper.start()
    used = await keeper.header()
    keeper.accepted(used)
    source.gate.clear()
    source.asked.clear()
    asking = asyncio.create_task(keeper.refresh(used))
    await source.asked.wait()
    await keeper.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == before


async def test_a_token_shows_in_no_repr() -> None:
    assert "secret" not in repr(Token("Basic secret", 1.0))
