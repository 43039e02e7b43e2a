"""Hands out KV blocks and takes them back.

Owns the free list and the reference counts; knows no tokens and no tensors. A block is free, held (count > 0), or
cached (count 0, but its contents can still be found; the prefix cache gives it up when blocks run out).
Law: free + held + cached == num_blocks, at every return. check() verifies it.
"""

import numpy as np


class BlockPool:
    """Reference counts of all KV blocks. Owned by KVCacheManager; lives in the engine process.

    Every method takes arrays of distinct block ids and costs a fixed number of array operations.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)  # a stack: [:num_free] is free, the top last
        self._num_free = num_blocks
        self._num_held = 0
        self._counts = np.zeros(num_blocks, np.int32)
        self._is_cached = np.zeros(num_blocks, bool)

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def num_held(self) -> int:
        return self._num_held

    @property
    def num_cached(self) -> int:
        return self.num_blocks - self._num_free - self._num_held

    def allocate(self, num_blocks: int) -> np.ndarray:
        """Take [num_blocks] int32 free blocks, each with count 1. There must be that many free."""
        assert 0 <= num_blocks <= self._num_free, "allocate: more blocks than are free"
        self._num_free -= num_blocks
        blocks = self._free[self._num_free : self._num_free + num_blocks][::-1].copy()
        self._counts[blocks] = 1
        self._num_held += num_blocks
        return blocks

    def hold(self, blocks: np.ndarray) -> None:
        """Add one to the counts of blocks that are held or cached."""
        counts = self._counts[blocks]
        self._num_held += blocks.size - int(np.count_nonzero(counts))
        self._counts[blocks] = counts + 1

    def release(self, blocks: np.ndarray) -> None:
        """Take one from the counts; blocks that reach 0 become cached if they are marked so, and free otherwise."""
        counts = self._counts[blocks] - 1
        self._counts[blocks] = counts
        unheld = blocks[counts == 0]
        self._num_held -= unheld.size
        self._give_back(unheld[~self._is_cached[unheld]])

    def mark_cached(self, blocks: np.ndarray) -> None:
        """Note that held blocks can be found: they will stay when their count reaches 0."""
        self._is_cached[blocks] = True

    def unmark_cached(self, blocks: np.ndarray) -> None:
        """Note that blocks can no longer be found; those with count 0 become free."""
        self._is_cached[blocks] = False
        self._give_back(blocks[self._counts[blocks] == 0])

    def is_held(self, blocks: np.ndarray) -> np.ndarray:
        """bool, as ``blocks``: whether the count is above 0."""
        held: np.ndarray = self._counts[blocks] > 0
        return held

    def is_cached(self, blocks: np.ndarray) -> np.ndarray:
        """bool, as ``blocks``: whether marked cached, held or not."""
        cached: np.ndarray = self._is_cached[blocks]
        return cached

    def check(self, counts: np.ndarray | None = None) -> None:
        """Verify the law from scratch; ``counts`` [num_blocks] is what the holders themselves counted, if given."""
        free = self._free[: self._num_free]
        is_free = np.zeros(self.num_blocks, bool)
        is_free[free] = True
        is_held = self._counts > 0
        assert int(is_free.sum()) == free.size, "a block is free twice"
        assert (self._counts >= 0).all(), "a count is negative"
        assert int(is_held.sum()) == self._num_held, "the number of held blocks is wrong"
        assert not (is_free & (is_held | self._is_cached)).any(), "a free block is held or cached"
        assert (is_free | is_held | self._is_cached).all(), "a block is lost"
        assert counts is None or np.array_equal(counts, self._counts), "a count is wrong"

    def _give_back(self, blocks: np.ndarray) -> None:
        self._free[self._num_free : self._num_free + blocks.size] = blocks
        self._num_free += blocks.size
