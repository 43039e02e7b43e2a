"""The cache finds what was put in, never more than is true, and gives up the oldest first.

The machine plays sequences straight on KVCacheManager, with the contents of every place of every block beside it: what
a lookup names must hold exactly the tokens asked for, in the same salt.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from quire.scheduling.kv_cache_manager import KVCacheManager

NUM_BLOCKS = 14
TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=14)
SALTS = st.sampled_from(["", "pepper"])


def array(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.int32)


class Life:
    """One sequence: its salt, its tokens, its blocks, the source of its copy."""

    def __init__(self, salt: str, tokens: list[int], blocks: np.ndarray, source: int) -> None:
        self.salt, self.tokens, self.blocks, self.source = salt, tokens, blocks, source


class CacheMachine(RuleBasedStateMachine):
    """Sequences begin, grow, share and end; ``contents[block][offset]`` is the prefix whose KV lies there."""

    def __init__(self) -> None:
        super().__init__()
        self.lives: list[Life] = []
        self.contents: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}

    @initialize(block_size=st.integers(1, 4))
    def build(self, block_size: int) -> None:
        self.size = block_size
        self.kv = KVCacheManager(NUM_BLOCKS, block_size, enable_prefix_caching=True)

    def write(self, life: Life, start: int) -> None:
        for position in range(start, len(life.tokens)):
            block = int(life.blocks[position // self.size])
            self.contents[block, position % self.size] = (life.salt, tuple(life.tokens[: position + 1]))

    def holds(self, block: int, offset: int, salt: str, tokens: list[int]) -> bool:
        return self.contents.get((block, offset)) == (salt, tuple(tokens))

    def verify(self, life: Life) -> None:
        for position in range(len(life.tokens)):
            block = int(life.blocks[position // self.size])
            assert self.holds(block, position % self.size, life.salt, life.tokens[: position + 1]), "overwritten"

    @rule(salt=SALTS, tokens=TOKENS, spare=st.integers(0, 2))
    def begin(self, salt: str, tokens: list[int], spare: int) -> None:
        match = self.kv.lookup(salt, array(tokens[:-1]))
        matched = self.kv.num_matching(match)
        for position in range(matched):
            full = position // self.size < match.blocks.size
            block = int(match.blocks[position // self.size]) if full else match.partial
            assert self.holds(block, position % self.size, salt, tokens[: position + 1]), "a false hit"
        before = self.kv.num_available
        allocation = self.kv.allocate(match, len(tokens), spare)
        if allocation is None:
            assert self.kv.num_available == before
            return
        assert self.kv.num_available >= spare
        life = Life(salt, tokens, allocation.blocks, -1)
        if allocation.copy:
            life.source, target, count = allocation.copy
            for offset in range(count):
                self.contents[target, offset] = self.contents[life.source, offset]
        self.write(life, allocation.num_computed_tokens)
        self.lives.append(life)

    @rule(choice=st.integers(0, 99), more=TOKENS)
    def grow(self, choice: int, more: list[int]) -> None:
        if not self.lives:
            return
        life = self.lives[choice % len(self.lives)]
        missing = -(-(len(life.tokens) + len(more)) // self.size) - life.blocks.size
        if missing <= self.kv.num_available:
            life.blocks = np.concatenate([life.blocks, self.kv.take(missing)])
            start = len(life.tokens)
            life.tokens = life.tokens + more
            self.write(life, start)

    @rule(choice=st.integers(0, 99))
    def share(self, choice: int) -> None:
        if not self.lives:
            return
        life = self.lives[choice % len(self.lives)]
        kept = self.kv.share(life.salt, array(life.tokens), life.blocks)
        life.blocks = np.concatenate([kept, life.blocks[kept.size :]])
        assert self.kv.num_matching(self.kv.lookup(life.salt, array(life.tokens))) == len(life.tokens), "not found"

    @rule(choice=st.integers(0, 99))
    def end_copy(self, choice: int) -> None:
        life = self.lives[choice % len(self.lives)] if self.lives else None
        if life and life.source >= 0:
            self.kv.end_copy(life.source)
            life.source = -1

    @rule(choice=st.integers(0, 99), num_good=st.integers(0, 99))
    def end(self, choice: int, num_good: int) -> None:
        if not self.lives:
            return
        life = self.lives.pop(choice % len(self.lives))
        good = life.tokens[:num_good]
        self.kv.free(life.salt, array(good), life.blocks)
        if life.source >= 0:
            self.kv.end_copy(life.source)
        assert self.kv.num_matching(self.kv.lookup(life.salt, array(good))) == len(good), "not found"

    @rule()
    def reset(self) -> None:
        self.kv.reset()
        assert self.kv.pool.num_cached == 0

    @invariant()
    def adds_up(self) -> None:
        if not hasattr(self, "kv"):
            return
        counts = np.zeros(NUM_BLOCKS, np.int32)
        for life in self.lives:
            counts[life.blocks] += 1
            if life.source >= 0:
                counts[life.source] += 1
            self.verify(life)
        self.kv.check(counts)

    def teardown(self) -> None:
        while self.lives:
            self.end(0, 99)
        if hasattr(self, "kv"):
            self.adds_up()
            assert self.kv.take(NUM_BLOCKS).size == NUM_BLOCKS, "not all can be evicted"


def test_cache_never_lies(lab: SimpleNamespace) -> None:
    run_state_machine_as_test(CacheMachine, settings=lab.STEPS)


@pytest.fixture
def kv() -> KVCacheManager:
    return KVCacheManager(6, 4, enable_prefix_caching=True)


def run(kv: KVCacheManager, tokens: list[int], salt: str = "") -> int:
    """A sequence from beginning to end; returns how many tokens were found."""
    allocation = kv.allocate(kv.lookup(salt, array(tokens)), len(tokens), 0)
    assert allocation is not None
    if allocation.copy:
        kv.end_copy(allocation.copy[0])
    kv.free(salt, array(tokens), allocation.blocks)
    return allocation.num_computed_tokens


def found(kv: KVCacheManager, tokens: list[int], salt: str = "") -> int:
    return kv.num_matching(kv.lookup(salt, array(tokens)))


def test_match_ends_where_tokens_differ_inside_a_block(kv: KVCacheManager) -> None:
    run(kv, [1, 2, 3, 4, 5, 6, 7, 8])
    match = kv.lookup("", array([1, 2, 3, 4, 5, 6, 9, 9]))
    assert (match.blocks.size, match.num_partial) == (1, 2)
    assert match.partial not in match.blocks
    assert found(kv, [2, 2, 3, 4]) == 0


def test_the_closest_of_many_neighbours_is_found() -> None:
    kv = KVCacheManager(64, 4, enable_prefix_caching=True)
    for first in range(5):
        for second in range(300, 305):
            run(kv, [first, second, 70000, 1])
    assert found(kv, [3, 302, 70000, 9]) == 3
    assert found(kv, [3, 302, 70001]) == 2
    assert found(kv, [3, 999]) == 1
    assert found(kv, [9, 302]) == 0


def test_a_partly_filled_block_is_found_but_never_shared(kv: KVCacheManager) -> None:
    run(kv, [1, 2, 3, 4, 5, 6])
    allocation = kv.allocate(kv.lookup("", array([1, 2, 3, 4, 5, 6, 7])), 7, 0)
    assert allocation is not None and allocation.copy is not None
    source, target, count = allocation.copy
    assert count == 2 and allocation.num_computed_tokens == 6
    assert source not in allocation.blocks and target == allocation.blocks[1]


def test_a_longer_content_supersedes_its_beginning(kv: KVCacheManager) -> None:
    run(kv, [1, 2])
    run(kv, [1, 2, 3])
    run(kv, [1, 2, 3, 4, 5])
    assert kv.pool.num_cached == 2
    assert found(kv, [1, 2, 3, 4, 5]) == 5


def test_least_recently_used_leaf_goes_first(kv: KVCacheManager) -> None:
    old, young = [1] * 8, [2] * 8
    run(kv, old)
    run(kv, young)
    assert run(kv, old) == 8  # used again: now it is the younger one
    kv.pool.release(kv.take(3))
    assert found(kv, old) == 8
    assert found(kv, young) == 4, "from its end, and no more than was needed"


def test_a_beginning_outlives_its_ends(kv: KVCacheManager) -> None:
    run(kv, [1] * 4 + [2] * 4)
    run(kv, [1] * 4 + [3] * 4)
    kv.pool.release(kv.take(5))
    assert found(kv, [1] * 4 + [3] * 4) == 4


def test_what_is_held_is_not_evicted(kv: KVCacheManager) -> None:
    run(kv, [1] * 8)
    allocation = kv.allocate(kv.lookup("", array([1] * 4)), 5, 0)
    assert allocation is not None
    assert kv.take(kv.num_available).size == 4
    assert found(kv, [1] * 8) == 4


def test_the_copy_is_done_without_when_its_source_is_in_the_way(kv: KVCacheManager) -> None:
    run(kv, [1] * 6)
    tokens = [1] * 5 + [2] * 19  # all 6 blocks, while block 2 of the match would be a seventh
    allocation = kv.allocate(kv.lookup("", array(tokens)), len(tokens), 0)
    assert allocation is not None
    assert (allocation.num_computed_tokens, allocation.copy) == (4, None)


def test_salts_do_not_meet(kv: KVCacheManager) -> None:
    run(kv, [1] * 8, salt="a")
    assert found(kv, [1] * 8, salt="a") == 8
    assert found(kv, [1] * 8, salt="b") == 0
    assert found(kv, [1] * 8) == 0


def test_nothing_is_found_without_a_prefix_cache() -> None:
    kv = KVCacheManager(6, 4, enable_prefix_caching=False)
    assert run(kv, [1] * 8) == 0
    assert found(kv, [1] * 8) == 0
    assert (kv.pool.num_free, kv.pool.num_cached) == (6, 0)


def test_stale_entries_do_not_pile_up(kv: KVCacheManager) -> None:
    for _ in range(2000):
        run(kv, [1] * 8)
    assert len(kv.prefix_cache._leaves) < 100
