"""One order of tokens: best first, lowest id among equals."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.kernels.ops.ranking import ranked

values = st.one_of(st.sampled_from([0.0, -0.0, -1.0, -2.5, float("-inf")]), st.floats(-100, 0, width=32))


@given(st.lists(values, min_size=1, max_size=200), st.data())
def test_order_is_by_value_then_id(row: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(row)))
    expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    assert ranked(torch.tensor([row]), k)[0].tolist() == expected


def test_ties_across_the_cut_take_the_lowest_ids() -> None:
    coarse = -torch.from_numpy(np.random.default_rng(0).integers(0, 4, (3, 5000)).astype(np.float32))
    expected = coarse.sort(dim=1, descending=True, stable=True).indices
    for k in (1, 50, 1250, 1251, 5000):  # both sides of the change from selection to sorting
        assert torch.equal(ranked(coarse, k), expected[:, :k])
