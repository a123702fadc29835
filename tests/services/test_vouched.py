"""What the disk makes up for: for how long, for whom, and what ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.events import Events
from proxy.oci import Digest, RepositoryName
from proxy.services.proofs import PROOF_SECONDS
from proxy.services.registries import Target
from proxy.services.vouched import Vouched
from proxy.upstream import RegistryConfig, open_registry
from tests.clocks import Clock

DIGEST = Digest.of(b"a blob")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    registry = await open_registry(RegistryConfig(name="lan:5000"), proxies={}, events=Events())
    yield Target(registry, RepositoryName.parse("app"))
    await registry.close()


def test_it_lasts_for_an_hour_under_its_repository(target: Target) -> None:
    clock = Clock()
    vouched = Vouched(clock=clock)
    vouched.add(target, DIGEST)
    other = Target(target.registry, RepositoryName.parse("other"))
    clock.now += PROOF_SECONDS - 1
    assert vouched.has(target, DIGEST)
    assert not vouched.has(other, DIGEST)
    clock.now += 1
    assert not vouched.has(target, DIGEST)


def test_a_denial_ends_it(target: Target) -> None:
    vouched = Vouched()
    vouched.drop(target, DIGEST)
    vouched.add(target, DIGEST)
    vouched.drop(target, DIGEST)
    assert not vouched.has(target, DIGEST)
