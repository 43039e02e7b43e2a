"""free + held + cached == num_blocks, whoever takes and gives."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from quire.scheduling.block_pool import BlockPool

NUM_BLOCKS = 9


class PoolMachine(RuleBasedStateMachine):
    """A BlockPool beside a dict of counts and a set of marks."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.counts = dict.fromkeys(range(NUM_BLOCKS), 0)
        self.marked: set[int] = set()

    def choose(self, mask: int, allowed: set[int]) -> np.ndarray:
        return np.array([block for block in sorted(allowed) if mask >> block & 1], np.int32)

    @rule(count=st.integers(0, NUM_BLOCKS))
    def allocate(self, count: int) -> None:
        count = min(count, self.pool.num_free)
        blocks = self.pool.allocate(count)
        assert blocks.dtype == np.int32 and len(set(blocks.tolist())) == count
        for block in blocks.tolist():
            assert self.counts[block] == 0 and block not in self.marked, "not a free block"
            self.counts[block] = 1

    @rule(mask=st.integers(0, 2**NUM_BLOCKS - 1))
    def hold(self, mask: int) -> None:
        blocks = self.choose(mask, {b for b in self.counts if self.counts[b] or b in self.marked})
        self.pool.hold(blocks)
        for block in blocks.tolist():
            self.counts[block] += 1

    @rule(mask=st.integers(0, 2**NUM_BLOCKS - 1))
    def release(self, mask: int) -> None:
        blocks = self.choose(mask, {b for b in self.counts if self.counts[b]})
        self.pool.release(blocks)
        for block in blocks.tolist():
            self.counts[block] -= 1

    @rule(mask=st.integers(0, 2**NUM_BLOCKS - 1))
    def mark(self, mask: int) -> None:
        blocks = self.choose(mask, {b for b in self.counts if self.counts[b] and b not in self.marked})
        self.pool.mark_cached(blocks)
        self.marked |= set(blocks.tolist())

    @rule(mask=st.integers(0, 2**NUM_BLOCKS - 1))
    def unmark(self, mask: int) -> None:
        blocks = self.choose(mask, self.marked)
        self.pool.unmark_cached(blocks)
        self.marked -= set(blocks.tolist())

    @invariant()
    def agrees(self) -> None:
        self.pool.check(np.array(list(self.counts.values()), np.int32))
        held = {block for block, count in self.counts.items() if count}
        assert self.pool.num_held == len(held)
        assert self.pool.num_cached == len(self.marked - held)
        assert self.pool.num_free == NUM_BLOCKS - len(self.marked | held)
        every = np.arange(NUM_BLOCKS)
        assert set(every[self.pool.is_held(every)].tolist()) == held
        assert set(every[self.pool.is_cached(every)].tolist()) == self.marked


def test_pool_agrees_with_a_dict_of_counts(lab: SimpleNamespace) -> None:
    run_state_machine_as_test(PoolMachine, settings=lab.STEPS)


def test_more_than_is_free_is_refused() -> None:
    pool = BlockPool(3)
    pool.allocate(2)
    with pytest.raises(AssertionError, match="more blocks than are free"):
        pool.allocate(2)
    assert pool.num_free == 1


def test_check_sees_a_wrong_count() -> None:
    pool = BlockPool(3)
    block = pool.allocate(1)
    counts = np.zeros(3, np.int32)
    with pytest.raises(AssertionError, match="a count is wrong"):
        pool.check(counts)
    counts[block] = 1
    pool.check(counts)
