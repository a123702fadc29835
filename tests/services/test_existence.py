"""What may be said of a blob without asking upstream, and how upstream is asked."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import BlobUnknown, Denied, RegistryError
from proxy.events import Kind
from proxy.oci import Digest
from proxy.services.existence import FRESH_SECONDS
from proxy.services.leases import LEASE_SECONDS
from proxy.services.proofs import PROOF_SECONDS
from proxy.services.questions import DENIED_SECONDS
from proxy.standin import Denial, Fault
from tests.filled import put
from tests.services.conftest import World

CONTENT = b"blob 0"
DIGEST = Digest.of(CONTENT)

NO_BATCH = Fault(server="api", method="POST", status=403, times=None)
# A wait that is asked for beyond all patience: it fails at once.
OUTAGE = Fault(server="registry", path="/blobs/", status=503, headers={"Retry-After": "99"})


async def is_there(world: World, digest: Digest = DIGEST) -> bool:
    """As a client's HEAD is answered."""
    try:
        await world.existence.ask(world.target, digest)
    except BlobUnknown:
        return False
    return True


async def all_there(world: World, digests: list[Digest]) -> list[bool]:
    """As clients hear it that ask at the same time."""
    return list(await asyncio.gather(*(is_there(world, digest) for digest in digests)))


# How long an answer stands


@pytest.mark.parametrize("held", [True, False])
async def test_an_answer_stands_for_a_minute(world: World, held: bool) -> None:
    if held:
        world.held(0)
    for _ in range(3):
        assert await is_there(world) is held
    world.clock.now += FRESH_SECONDS - 1
    assert await is_there(world) is held
    assert world.asked() == (1, 0)
    world.clock.now += 1
    assert await is_there(world) is held
    assert world.asked() == (2, 0)


async def test_what_is_on_disk_stands_as_long_as_it_proves_permission(world: World) -> None:
    world.held(0)
    await put(world.store, CONTENT)
    for _ in range(2):
        assert await world.existence.ask(world.target, DIGEST) == len(CONTENT)
        world.clock.now += PROOF_SECONDS - 1
    assert world.asked() == (1, 0)
    world.clock.now += 1
    assert await is_there(world)
    assert world.asked() == (2, 0)


async def test_what_is_only_on_disk_is_asked_for(world: World) -> None:
    await put(world.store, CONTENT)
    assert not await is_there(world)
    assert world.asked() == (1, 0)


async def test_what_is_on_disk_no_more_stands_for_a_minute_only(world: World) -> None:
    world.held(0)
    await put(world.store, CONTENT)
    assert await is_there(world)
    world.clock.now += FRESH_SECONDS
    assert await is_there(world)
    assert world.asked() == (1, 0)
    await world.store.remove(DIGEST)
    assert world.existence.find(world.target, DIGEST) is None
    assert await is_there(world)
    assert world.asked() == (2, 0)


async def test_an_answer_is_of_one_repository(world: World) -> None:
    world.held(0)
    await put(world.store, CONTENT)
    assert await is_there(world)
    leases = len(world.leases)
    with pytest.raises(BlobUnknown):
        await world.existence.ask(world.other, DIGEST)
    assert len(world.leases) == leases


async def test_an_answer_of_minutes_ago_is_given_with_a_lease_alone(world: World) -> None:
    world.held(0)
    await put(world.store, CONTENT)
    assert await is_there(world)
    world.clock.now += LEASE_SECONDS
    world.leases.expire()
    assert len(world.leases) == 0
    assert await is_there(world)
    assert len(world.leases) == 1
    assert world.asked() == (1, 0)
    await world.store.shrink(0)
    assert world.store.contains(DIGEST)


async def test_a_lease_that_was_given_up_is_no_reason_not_to_ask(world: World) -> None:
    """Three of which two find room: the first to be told of may be evicted, so it is asked for."""
    contents = [bytes([number]) * 900_000 for number in range(3)]
    digests = [world.standin.state.put_blob("app", content) for content in contents]
    for content, digest in zip(contents, digests, strict=True):
        await put(world.store, content)
        assert await is_there(world, digest)
    assert (len(world.leases), world.heads()) == (2, 3)
    assert await is_there(world, digests[0])
    assert world.heads() == 3  # it was said a moment ago
    assert await is_there(world, digests[1])
    world.clock.now += FRESH_SECONDS
    assert await is_there(world, digests[1])
    assert world.heads() == 3
    assert await is_there(world, digests[2])
    assert world.heads() == 4


# What is no answer


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_no_failure_is_remembered(world: World, status: int) -> None:
    world.held(0)
    broken = world.standin.faults.add(
        Fault(server="registry", status=status, headers={"Retry-After": "99"}, times=None)
    )
    with pytest.raises(RegistryError):
        await world.existence.ask(world.target, DIGEST)
    assert world.existence.find(world.target, DIGEST) is None
    assert not await world.existence.ask_all(world.target, [DIGEST])
    world.standin.faults.remove(broken)
    assert await is_there(world)


async def test_a_denial_ends_what_was_known(world: World) -> None:
    world.held(0)
    await put(world.store, CONTENT)
    assert await is_there(world)
    world.standin.state.policy.denials.append(Denial("ecr:BatchCheckLayerAvailability"))
    world.clock.now += PROOF_SECONDS
    with pytest.raises(Denied):
        await world.existence.ask(world.target, DIGEST)
    assert not world.proofs.had(world.target, DIGEST)


async def test_trouble_leaves_what_was_known(world: World) -> None:
    world.held(0)
    assert await is_there(world)
    world.standin.faults.add(OUTAGE)
    with pytest.raises(RegistryError):
        await world.existence.fetch(world.target, DIGEST, patient=False)
    assert await is_there(world)


# What is written through the proxy


async def test_an_absence_does_not_outlive_a_push(world: World) -> None:
    assert not await is_there(world)
    world.existence.add(world.target, DIGEST, len(CONTENT))
    assert await world.existence.ask(world.target, DIGEST) == len(CONTENT)
    assert world.asked() == (1, 0)


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_size_that_nobody_has_said_is_asked_for_unless_it_is_on_disk(
    world: World, on_disk: bool
) -> None:
    world.held(0)
    if on_disk:
        await put(world.store, CONTENT)
    world.existence.add(world.target, DIGEST)
    size = await world.existence.ask(world.target, DIGEST)
    assert (size, world.heads()) == ((None, 0) if on_disk else (len(CONTENT), 1))


async def test_an_answer_on_its_way_does_not_outlive_a_push(world: World) -> None:
    gate = world.standin.faults.add(Fault(method="HEAD", hold=True, status=404))
    asking = asyncio.create_task(is_there(world))
    await gate.reached.wait()
    world.existence.add(world.target, DIGEST, len(CONTENT))
    assert await asking
    gate.release()
    await world.existence.close()
    assert await is_there(world)
    assert world.heads() == 1


async def test_an_answer_on_its_way_does_not_outlive_a_deletion(world: World) -> None:
    digests = world.held(0, 1)
    gate = world.standin.faults.add(Fault(server="api", hold_at=0))  # its answer is decided
    asking = asyncio.create_task(all_there(world, digests))
    await gate.reached.wait()
    world.standin.state.delete_blob("app", DIGEST)
    world.existence.drop(world.target, DIGEST)
    assert not await is_there(world)
    gate.release()
    assert await asking == [True, True]
    assert not await is_there(world)
    assert world.asked() == (1, 1)


@pytest.mark.parametrize("held", [True, False])
async def test_what_was_dropped_is_asked_for(world: World, held: bool) -> None:
    if held:
        world.held(0)
        await put(world.store, CONTENT)
    assert await is_there(world) is held
    world.existence.drop(world.target, DIGEST)
    assert world.existence.find(world.target, DIGEST) is None
    assert not world.proofs.had(world.target, DIGEST)
    assert await is_there(world) is held
    assert world.heads() == 2


# How it is asked


async def test_forty_questions_of_an_unchanged_cache_are_one_call(world: World) -> None:
    digests = world.held(*range(40))
    world.existence.expect(world.target, digests)
    for digest in digests:  # one after another, as BuildKit asks
        assert await is_there(world, digest)
    assert world.asked() == (0, 1)
    assert await world.existence.ask(world.target, digests[7]) == len(b"blob 7")


async def test_what_is_expected_travels_with_what_is_asked(world: World) -> None:
    expected = world.held(*range(3))
    gone = Digest.of(b"gone")
    world.existence.expect(world.target, [*expected, gone])
    assert not await is_there(world, Digest.of(b"new"))
    assert await all_there(world, [*expected, gone]) == [True, True, True, False]
    assert world.asked() == (0, 1)


async def test_what_is_expected_and_known_is_not_asked_for(world: World) -> None:
    expected = world.held(*range(3))
    world.existence.expect(world.target, expected)
    for number, digest in enumerate(expected):
        await put(world.store, b"blob %d" % number)
        world.existence.add(world.target, digest, 6)
    world.clock.now += FRESH_SECONDS
    assert not await is_there(world, Digest.of(b"new"))
    assert world.asked() == (1, 0)


async def test_the_cache_that_was_seen_last_is_expected(world: World) -> None:
    old, new = world.held(*range(5)), world.held(*range(4, 8))
    world.existence.expect(world.target, old)
    world.existence.expect(world.target, new)
    assert await is_there(world, new[0])
    assert [
        world.existence.find(world.target, digest) is not None for digest in (*old[:4], *new)
    ] == [False] * 4 + [True] * 4


async def test_questions_of_one_turn_travel_together(world: World) -> None:
    digests = [*world.held(*range(4)), Digest.of(b"missing")]
    assert await all_there(world, digests * 2) == [True, True, True, True, False] * 2
    assert world.asked() == (0, 1)


async def test_a_question_that_is_on_its_way_is_not_asked_again(world: World) -> None:
    digests = world.held(*range(3))
    gate = world.standin.faults.add(Fault(server="api", hold=True))
    first = asyncio.create_task(all_there(world, digests[:2]))
    await gate.reached.wait()
    joining = asyncio.create_task(all_there(world, digests[:2]))
    assert await is_there(world, digests[2])  # which is not among them
    gate.release()
    assert await first == await joining == [True, True]
    assert world.asked() == (1, 1)


async def test_more_than_a_hundred_are_more_calls(world: World) -> None:
    digests = world.held(*range(250))
    answers = await world.existence.ask_all(world.target, digests)
    assert answers == dict.fromkeys(digests, True)
    assert world.asked() == (0, 3)


async def test_where_the_batch_is_denied_each_is_asked_for_and_that_is_told_once(
    world: World,
) -> None:
    digests = world.held(*range(6))
    denied = world.standin.faults.add(NO_BATCH)
    for part in (digests[:2], digests[2:4]):
        assert await all_there(world, part) == [True, True]
    assert world.asked() == (4, 1)
    world.clock.now += DENIED_SECONDS
    assert await all_there(world, digests[4:]) == [True, True]
    assert world.asked() == (6, 2)
    assert [event.kind for event in world.told].count(Kind.TROUBLE) == 1
    world.standin.faults.remove(denied)
    world.clock.now += DENIED_SECONDS
    assert await all_there(world, digests[:2]) == [True, True]
    assert world.asked() == (6, 3)


async def test_where_there_is_no_batch_nobody_asks_for_what_is_expected(world: World) -> None:
    digests = world.held(*range(6))
    world.existence.expect(world.target, digests)
    world.standin.faults.add(NO_BATCH)
    for digest in digests[:3]:
        assert await is_there(world, digest)
    assert world.asked() == (3, 1)


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_a_batch_that_fails_proves_nothing(world: World, status: int) -> None:
    """400: throttled."""
    held, missing = world.held(0, 1), Digest.of(b"missing")
    world.existence.expect(world.target, [*held, missing])
    world.standin.faults.add(Fault(server="api", method="POST", status=status, times=None))
    assert await is_there(world, held[0])
    assert world.existence.find(world.target, held[1]) is None
    assert world.existence.find(world.target, missing) is None


async def test_only_what_was_decided_is_in_the_answer_for_many(world: World) -> None:
    held, missing = world.held(0, 1), Digest.of(b"missing")
    world.standin.faults.add(NO_BATCH)
    world.standin.faults.add(
        Fault(path=held[1], status=503, headers={"Retry-After": "99"}, times=None)
    )
    answers = await world.existence.ask_all(world.target, [*held, missing])
    assert answers == {held[0]: True, missing: False}


async def test_a_caller_that_is_cancelled_disturbs_nobody(world: World) -> None:
    digests = world.held(0, 1)
    gate = world.standin.faults.add(Fault(server="api", hold=True))
    asking = [asyncio.create_task(is_there(world, digest)) for digest in digests * 2]
    await gate.reached.wait()
    for task in asking[:2]:
        task.cancel()
    await asyncio.wait(asking[:2])
    gate.release()
    assert await asyncio.gather(*asking[2:]) == [True, True]
    assert world.asked() == (0, 1)


async def test_a_caller_that_is_cancelled_leaves_its_answer(world: World) -> None:
    world.held(0)
    gate = world.standin.faults.add(Fault(method="HEAD", hold=True))
    asking = asyncio.create_task(world.existence.ask_all(world.target, [DIGEST], patient=True))
    await gate.reached.wait()
    asking.cancel()
    await asyncio.wait([asking])
    gate.release()
    assert await is_there(world)
    assert world.heads() == 1


async def test_closing_ends_what_is_under_way(world: World) -> None:
    gate = world.standin.faults.add(Fault(method="HEAD", hold=True))
    asking = asyncio.create_task(is_there(world))
    await gate.reached.wait()
    gathering = asyncio.create_task(is_there(world, Digest.of(b"another")))
    await asyncio.sleep(0)
    await world.existence.close()
    await asyncio.wait([asking, gathering])
    assert asking.cancelled()
    assert gathering.cancelled()
