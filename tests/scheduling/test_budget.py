"""Everyone gets a token; the rest goes to the most senior."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.scheduling.budget import share_budget


@pytest.mark.parametrize(
    ("pending", "budget", "max_chunk", "counts"),
    [
        ([1, 1, 1], 16, 99, [1, 1, 1]),
        ([40], 16, 99, [16]),
        ([1, 40, 1, 8], 16, 99, [1, 13, 1, 1]),
        ([20, 8, 3], 16, 6, [6, 6, 3]),
        ([20, 20], 2, 99, [1, 1]),
    ],
)
def test_examples(pending: list[int], budget: int, max_chunk: int, counts: list[int]) -> None:
    shared = share_budget(np.array(pending, np.int64), budget, max_chunk)
    assert (shared.tolist(), shared.dtype) == (counts, np.int64)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 200), st.integers(1, 40))
def test_nothing_is_wasted(pending: list[int], more: int, max_chunk: int) -> None:
    budget = len(pending) + more
    counts = share_budget(np.array(pending, np.int64), budget, max_chunk).tolist()
    wanted = [min(tokens, max_chunk) for tokens in pending]
    assert sum(counts) == min(budget, sum(wanted))
    assert all(1 <= count <= most for count, most in zip(counts, wanted, strict=True))
