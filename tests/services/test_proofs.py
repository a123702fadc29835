"""Proofs of permission: how long they last, and what they take."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.events import Events
from proxy.oci import Digest, RepositoryName
from proxy.services.proofs import Proofs
from proxy.services.registries import Target
from proxy.upstream import RegistryConfig, open_registry
from tests.clocks import Clock

DIGEST = Digest.of(b"a blob")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    registry = await open_registry(RegistryConfig(name="lan:5000"), proxies={}, events=Events())
    yield Target(registry, RepositoryName.parse("app"))
    await registry.close()


def test_a_proof_is_good_for_its_time_then_stale_then_gone(target: Target) -> None:
    clock = Clock()
    proofs = Proofs(seconds=10, stale_seconds=5, clock=clock)
    proofs.add(target, DIGEST)
    seen = []
    for age in (0, 9.9, 10, 14.9, 15):
        clock.now = 1000 + age
        seen.append((proofs.has(target, DIGEST), proofs.had(target, DIGEST)))
    assert seen == [(True, True), (True, True), (False, True), (False, True), (False, False)]


def test_a_proof_is_renewed_where_it_stands(target: Target) -> None:
    clock = Clock()
    proofs = Proofs(seconds=10, limit=2, clock=clock)
    other, third = Digest.of(b"other"), Digest.of(b"third")
    for digest in (DIGEST, other, DIGEST, third):
        proofs.add(target, digest)
        clock.now += 1
    assert [proofs.has(target, digest) for digest in (DIGEST, other, third)] == [True, False, True]


def test_what_is_too_old_for_any_use_is_forgotten(target: Target) -> None:
    clock = Clock()
    proofs = Proofs(seconds=10, stale_seconds=5, clock=clock)
    for number in range(100):
        proofs.add(target, Digest.of(b"%d" % number))
    clock.now += 15
    proofs.add(target, DIGEST)
    assert len(proofs) == 1


def test_a_proof_is_of_one_digest_in_one_repository(target: Target) -> None:
    proofs = Proofs(stale_seconds=5)
    proofs.add(target, DIGEST)
    others = [
        (replace(target, repository=RepositoryName.parse("other")), DIGEST),
        (target, Digest.of(b"another blob")),
    ]
    assert not any(proofs.has(*other) or proofs.had(*other) for other in others)
    proofs.drop(target, DIGEST)
    assert not proofs.had(target, DIGEST)


def test_a_size_that_was_said_once_stays_known(target: Target) -> None:
    proofs = Proofs()
    seen = []
    for size in (None, 0, None, 5, None):
        proofs.add(target, DIGEST, size)
        proof = proofs.find(target, DIGEST)
        assert proof is not None
        seen.append(proof.size)
    assert seen == [None, 0, 0, 5, 5]


def test_a_full_table_takes_less_than_sixty_megabytes(target: Target) -> None:
    tracemalloc.start()
    try:
        proofs = Proofs()
        for number in range(201_000):
            proofs.add(target, Digest(f"sha256:{number:064x}"), number * 1000)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(proofs) == 200_000
    assert taken < 60e6, taken
