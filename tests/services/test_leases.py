"""Blobs that are kept on disk because a client counts on them."""

from __future__ import annotations

import pytest

from proxy.oci import Digest
from proxy.services.leases import LEASE_SECONDS, Leases
from tests.filled import put
from tests.services.conftest import BUDGET, World


async def stored(world: World, count: int, size: int = 600_000) -> list[Digest]:
    return [await put(world.store, bytes([number]) * size) for number in range(count)]


async def kept(world: World, digests: list[Digest]) -> list[bool]:
    """Which of them stay when as much as possible is evicted."""
    await world.store.shrink(0)
    return [world.store.contains(digest) for digest in digests]


async def test_a_leased_blob_is_not_evicted(world: World) -> None:
    digests = await stored(world, 3)
    assert world.leases.hold(world.target, digests[1])
    assert await kept(world, digests) == [False, True, False]


async def test_nothing_is_leased_that_is_not_on_disk(world: World) -> None:
    assert not world.leases.hold(world.target, Digest.of(b"elsewhere"))
    assert len(world.leases) == 0


async def test_a_lease_ends_with_the_manifest_of_its_repository(world: World) -> None:
    digests = await stored(world, 2)
    for target in (world.target, world.other):
        for digest in digests:
            assert world.leases.hold(target, digest)
    world.leases.release(world.target, [*digests, Digest.of(b"never seen")])
    world.leases.release(world.other, digests[1:])
    assert await kept(world, digests) == [True, False]


async def test_a_lease_ends_when_nobody_came_back(world: World) -> None:
    digests = await stored(world, 2)
    for digest in digests:
        assert world.leases.hold(world.target, digest)
    world.clock.now += LEASE_SECONDS - 1
    assert world.leases.hold(world.target, digests[0])  # renewed
    world.clock.now += 1
    world.leases.expire()
    assert await kept(world, digests) == [True, False]


async def test_leases_take_half_of_the_budget_and_the_oldest_give_way(world: World) -> None:
    digests = await stored(world, 5)
    for digest in (*digests[:3], digests[0], digests[3]):
        assert world.leases.hold(world.target, digest)
    assert len(world.leases) == 3
    assert await kept(world, digests) == [True, False, True, True, False]
    assert world.store.used_bytes <= BUDGET // 2


async def test_what_was_given_up_is_leased_again_once_upstream_has_confirmed_it(
    world: World,
) -> None:
    digests = await stored(world, 4)
    for digest in digests:
        assert world.leases.hold(world.target, digest)
    assert not world.leases.hold(world.target, digests[0])
    assert world.leases.hold(world.target, digests[0], confirmed=True)
    assert await kept(world, digests) == [True, False, True, True]


async def test_what_was_given_up_is_leased_again_after_a_time(world: World) -> None:
    digests = await stored(world, 4)
    for digest in digests:
        assert world.leases.hold(world.target, digest)
    world.clock.now += LEASE_SECONDS
    assert world.leases.hold(world.target, digests[0])


async def test_a_blob_larger_than_half_of_the_budget_takes_no_others_place(world: World) -> None:
    (small,) = await stored(world, 1)
    assert world.leases.hold(world.target, small)
    large = await put(world.store, bytes(BUDGET // 2))
    assert not world.leases.hold(world.target, large)
    assert await kept(world, [small, large]) == [True, False]


async def test_so_many_are_leased_at_most(world: World) -> None:
    leases = Leases(world.store, limit=2)
    digests = await stored(world, 3, size=10)
    for digest in digests:
        assert leases.hold(world.target, digest)
    assert await kept(world, digests) == [False, True, True]
    leases.close()


@pytest.mark.parametrize("again", [False, True])
async def test_a_blob_that_is_removed_frees_its_bytes(world: World, again: bool) -> None:
    (digest,) = await stored(world, 1)
    assert world.leases.hold(world.target, digest)
    used = world.store.used_bytes
    assert await world.store.remove(digest)
    if again:
        assert not world.leases.hold(world.target, digest)
    else:
        world.leases.expire()
    assert len(world.leases) == 0
    assert not await world.store.remove(digest)  # which waits for whoever takes it off the disk
    assert world.store.used_bytes < used - 600_000


async def test_closing_lets_go_of_all(world: World) -> None:
    digests = await stored(world, 3)
    for digest in digests:
        world.leases.hold(world.target, digest)
    world.leases.close()
    assert len(world.leases) == 0
    assert not any(await kept(world, digests))
