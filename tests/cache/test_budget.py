"""The arithmetic of the budget and the order of eviction, without a disk."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.cache.budget import Budget, disk_need
from proxy.cache.policy import AgedLfu, Entry


def budget_of(limit: int, *sizes: int) -> Budget:
    """A budget in which blobs of so many bytes lie, named by their place."""
    budget = Budget(limit, AgedLfu())
    for place, size in enumerate(sizes):
        budget.add(bytes([place]), Entry(size, size))
    return budget


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000_000, 5 * 2**30])
def test_a_file_needs_more_than_its_size_but_not_much(size: int) -> None:
    assert size < disk_need(size) <= size + size // 1000 + 6 * 4096


def test_there_is_no_shortage_up_to_the_limit_less_what_is_kept_back() -> None:
    budget = budget_of(6400, 1000)
    assert budget.shortage(5300) == 0
    assert budget.shortage(5301) == 1
    assert budget.shortage(5400, urgent=True) == 0
    budget.reserve(5300)
    assert budget.shortage(1) == 1
    assert budget.shortage(100, urgent=True) == 0
    budget.release(5300)
    assert budget.shortage(5300) == 0


def test_victims_are_those_that_go_first_and_no_more_than_needed() -> None:
    budget = budget_of(1000, 100, 100, 100, 100)
    budget.use(b"\0")
    assert budget.victims(150) == [b"\1", b"\2"]
    assert budget.victims(100) == [b"\1"]
    assert budget.victims(0) == []


def test_pinned_entries_are_no_victims() -> None:
    budget = budget_of(1000, 100, 100, 100)
    budget.pin(b"\0")
    budget.pin(b"\0")
    assert budget.victims(100) == [b"\1"]
    assert budget.victims(201) is None
    assert not budget.unpin(b"\0")
    assert budget.victims(201) is None
    assert budget.unpin(b"\0")
    assert budget.victims(201) == [b"\0", b"\1", b"\2"]


def test_what_leaves_is_counted_until_it_is_gone() -> None:
    budget = budget_of(1000, 400)
    entry = budget.leave(b"\0")
    assert entry == Entry(400, 400)
    assert budget.find(b"\0") is None
    assert budget.used == 400
    assert budget.victims(1) is None
    budget.gone(entry)
    assert budget.used == 0


def test_overhead_cannot_be_evicted() -> None:
    budget = budget_of(1000, 100)
    budget.charge(1200)
    assert budget.excess == 300
    assert budget.victims(101) is None
    budget.charge(-1200)
    assert budget.excess == 0


class BudgetMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the sums are right and the limit holds."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = AgedLfu()
        self.budget = Budget(100_000, self.policy)
        self.rooms: list[int] = []
        self.entries: list[bytes] = []
        self.sizes: dict[bytes, int] = {}
        self.leaving: list[Entry] = []
        self.pins: list[bytes] = []
        self.names = 0

    @rule(need=st.integers(1, 60_000))
    def reserve(self, need: int) -> None:
        shortage = self.budget.shortage(need)
        victims = self.budget.victims(shortage) if shortage else []
        if victims is None:
            free = [key for key in self.entries if key not in self.pins]
            assert sum(self.sizes[key] for key in free) < shortage
            return
        free = [key for key, _ in self.policy.candidates() if key not in self.pins]
        assert victims == free[: len(victims)]
        for key in victims:
            self._leave(key)
        while self.leaving and self.budget.shortage(need):
            self.budget.gone(self.leaving.pop())
        assert not self.budget.shortage(need)
        self.budget.reserve(need)
        self.rooms.append(need)

    @precondition(lambda self: self.rooms)
    @rule(data=st.data())
    def move_in(self, data: st.DataObject) -> None:
        room = self.rooms.pop()
        size = data.draw(st.integers(0, room))
        self.names += 1
        key = self.names.to_bytes(4, "big")
        self.budget.release(room)
        self.budget.add(key, Entry(size, size))
        self.entries.append(key)
        self.sizes[key] = size

    @precondition(lambda self: self.rooms)
    @rule()
    def give_up(self) -> None:
        self.budget.release(self.rooms.pop())

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        self.budget.use(data.draw(st.sampled_from(self.entries)))

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.entries))
        self.budget.pin(key)
        self.pins.append(key)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.pins))
        self.pins.remove(key)
        assert self.budget.unpin(key) == (key not in self.pins)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._leave(data.draw(st.sampled_from(self.entries)))

    def _leave(self, key: bytes) -> None:
        entry = self.budget.leave(key)
        assert entry is not None
        self.entries.remove(key)
        self.leaving.append(entry)

    @invariant()
    def the_sums_are_right(self) -> None:
        stored = sum(self.sizes[key] for key in self.entries)
        leaving = sum(entry.disk for entry in self.leaving)
        assert self.budget.used == stored + leaving
        assert self.budget.reserved == sum(self.rooms)
        assert self.budget.used + self.budget.reserved <= self.budget.limit
        assert len(self.budget) == len(self.entries)


TestBudgetMachine = BudgetMachine.TestCase
