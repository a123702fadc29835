"""The order of eviction, and that it can be written down and restored."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.cache.policy import AgedLfu, Entry
from tests.bench.eviction import Case, bound, byte_hit_ratio, simulate, tables
from tests.bench.eviction_policies import CONTENDERS
from tests.bench.eviction_workloads import WORKLOADS, trace_of

ENTRY = Entry(10, 4096)


def policy_of(keys: bytes) -> AgedLfu:
    """A policy in which entries lie that are named by one byte each."""
    policy = AgedLfu()
    for key in keys:
        add(policy, key)
    return policy


def add(policy: AgedLfu, key: int, *, mark: int = 0) -> None:
    policy.add(bytes([key]), ENTRY, mark=mark)


def use(policy: AgedLfu, keys: bytes) -> None:
    for key in keys:
        policy.use(bytes([key]))


def evict(policy: AgedLfu) -> bytes:
    key, _ = next(policy.candidates())
    policy.remove(key)
    return key


def order(policy: AgedLfu) -> bytes:
    return b"".join(key for key, _ in policy.candidates())


def restored(policy: AgedLfu) -> AgedLfu:
    """As after a clean stop and a start."""
    new = AgedLfu()
    for key, entry, mark in policy.entries():
        new.add(key, entry, mark=mark)
    return new


def test_what_is_used_as_often_goes_in_the_order_of_its_last_use() -> None:
    policy = policy_of(b"abcd")
    assert order(policy) == b"abcd"
    use(policy, b"bacd")
    assert order(policy) == b"bacd"


def test_what_is_used_less_often_goes_first() -> None:
    policy = policy_of(b"abcd")
    use(policy, b"aabbbc")
    assert order(policy) == b"dcab"


def test_looking_is_no_use() -> None:
    policy = policy_of(b"ab")
    assert policy.find(b"a") == ENTRY
    assert policy.find(b"c") is None
    assert order(policy) == b"ab"


def test_what_is_removed_is_gone_and_comes_back_as_new() -> None:
    policy = policy_of(b"abc")
    use(policy, b"aaaabc")
    assert policy.remove(b"a") == ENTRY
    assert policy.remove(b"a") is None
    assert len(policy) == 2
    assert order(policy) == b"bc"
    policy.add(b"a", Entry(11, 8192))
    assert policy.find(b"a") == Entry(11, 8192)
    use(policy, b"aaa")
    assert order(policy) == b"bca"


def test_a_sweep_leaves_what_was_used() -> None:
    policy = policy_of(b"ab")
    use(policy, b"aaabbb")
    for key in range(128, 128 + 3 * 10):
        add(policy, key)
        if len(policy) > 10:
            evict(policy)
    assert sorted(order(policy)) == [*b"ab", *range(150, 158)]


def test_what_was_used_often_but_long_ago_goes_too() -> None:
    policy = policy_of(b"a")
    use(policy, b"a" * 1000)
    for key in range(128, 128 + 8 * 10):
        add(policy, key)
        if len(policy) > 10:
            evict(policy)
    assert policy.find(b"a") is None


def test_what_is_put_back_after_a_failed_eviction_is_not_next() -> None:
    policy = policy_of(b"abc")
    use(policy, b"bbbccc")
    assert evict(policy) == b"a"
    add(policy, ord("a"))
    assert order(policy) == b"bca"


def test_added_in_order_of_use_without_marks_the_least_recently_used_goes_first() -> None:
    policy = policy_of(b"abcd")
    use(policy, b"aaaabbcd")
    new = policy_of(b"abcd")
    assert order(new) == b"abcd"


@given(mark=st.integers(0, 255))
def test_any_mark_will_do(mark: int) -> None:
    policy = AgedLfu()
    add(policy, 1, mark=mark)
    add(policy, 2)
    use(policy, bytes([1, 2, 1]))
    assert sorted(order(policy)) == [1, 2]
    assert all(0 <= again <= 255 for _, _, again in policy.entries())


@given(st.lists(st.integers(0, 15), max_size=120))
def test_victims_taken_together_are_those_taken_one_by_one(steps: list[int]) -> None:
    one, other = AgedLfu(), AgedLfu()
    for policy in (one, other):
        for step in steps:
            if policy.find(bytes([step])) is None:
                add(policy, step)
            else:
                policy.use(bytes([step]))
    together = list(islice(one.candidates(), len(one) // 2))
    for key, _ in together:
        one.remove(key)
    assert [evict(other) for _ in together] == [key for key, _ in together]
    assert list(one.entries()) == list(other.entries())


class PolicyMachine(RuleBasedStateMachine):
    """Beside a plain list of levels. After a restart, all goes on as if there had been none."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = AgedLfu()
        self.levels: dict[bytes, tuple[int, int]] = {}  # level and count, least recently used first
        self.ground = 0
        self.names = 0

    @rule(size=st.integers(0, 2**63))
    def add(self, size: int) -> None:
        self.names += 1
        key = self.names.to_bytes(2, "big")
        self.policy.add(key, Entry(size, size + 1))
        self.levels[key] = (self.ground + 1, 1)

    @precondition(lambda self: self.levels)
    @rule(data=st.data(), times=st.integers(1, 9))
    def use(self, data: st.DataObject, times: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.levels)))
        for _ in range(times):
            self.policy.use(key)
            count = min(7, self.levels.pop(key)[1] + 1)
            self.levels[key] = (self.ground + count, count)

    @precondition(lambda self: self.levels)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(sorted(self.levels))))

    @precondition(lambda self: self.levels)
    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        for key, _ in list(self.policy.candidates())[: int(share * len(self.levels)) + 1]:
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        assert self.policy.remove(key) is not None
        del self.levels[key]
        if self.levels:
            self.ground = max(self.ground, min(self.levels.values())[0])

    @rule()
    def restart(self) -> None:
        self.policy = restored(self.policy)
        # Least recently used first on each level is all that is kept of the times of use.
        self.levels = dict(sorted(self.levels.items(), key=lambda item: item[1][0]))

    @invariant()
    def the_order_is_right(self) -> None:
        expected = sorted(self.levels, key=lambda key: self.levels[key][0])
        assert [key for key, _ in self.policy.candidates()] == expected
        assert [key for key, _, _ in self.policy.entries()] == expected
        assert self.policy.keys() == expected
        assert len(self.policy) == len(expected)
        for key, entry in self.policy.candidates():
            assert self.policy.find(key) == entry == Entry(entry.size, entry.size + 1)


TestPolicyMachine = PolicyMachine.TestCase


def test_an_entry_takes_less_than_300_bytes_with_its_key() -> None:
    count = 20_000
    with taken() as memory:
        policy = AgedLfu()
        for number in range(count):
            policy.add(key_of(number), Entry(2**32 + number, 2**33 + number))
        assert memory() / count < 300


def test_what_comes_and_goes_leaves_nothing_behind() -> None:
    policy = AgedLfu()
    with taken() as memory:
        for number in range(20_000):
            policy.add(key_of(number), ENTRY)
            if len(policy) > 10:
                evict(policy)
        assert memory() < 50_000


def key_of(number: int) -> bytes:
    return b"2" + hashlib.sha256(number.to_bytes(4, "big")).digest()


@contextmanager
def taken() -> Iterator[Callable[[], int]]:
    """Gives what tells how many bytes were allocated since and are held still."""
    gc.collect()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


# The simulation that the policy was chosen by


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_trace_is_the_same_for_the_same_seed_and_another_for_another(workload: str) -> None:
    trace = trace_of(workload, 1)
    again, other = trace_of(workload, 1), trace_of(workload, 2)
    assert (trace.events, trace.sizes) == (again.events, again.sizes)
    assert trace.sizes != other.sizes
    assert min(trace.sizes) > 0


@pytest.mark.parametrize("policy", CONTENDERS)
def test_no_policy_exceeds_what_could_be_had_with_knowledge_of_the_future(policy: str) -> None:
    trace = trace_of("branches", 3)
    previous = 0.0
    for share in (0.02, 0.2):
        capacity = int(share * trace.footprint)
        ratio = byte_hit_ratio(trace, CONTENDERS[policy], capacity)
        assert previous < ratio < bound(trace, capacity) < 1
        previous = ratio


def test_with_room_for_all_each_policy_reaches_the_bound() -> None:
    trace = trace_of("branches", 3)
    everything = sum(trace.sizes)
    ratios = {byte_hit_ratio(trace, make, everything) for make in CONTENDERS.values()}
    assert ratios == {bound(trace, everything)}


def test_the_table_names_every_policy_and_the_best_regrets_nothing() -> None:
    results = simulate(["fan-out"], [0.1], seeds=1)
    case = Case("fan-out", 0.1)
    assert min(results.regret(case, name) for name in CONTENDERS) == 0
    for name in CONTENDERS:
        assert name in tables(results)
