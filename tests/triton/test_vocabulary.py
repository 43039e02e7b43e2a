"""Logits in Triton: capped as the reference caps them, and the first of the greatest wherever it stands."""

import numpy as np
import pytest
import torch

from quire.kernels.ops.choice import greedy
from quire.kernels.ops.vocabulary import logits
from quire.kernels.triton.tuning import STRETCH
from quire.kernels.triton.vocabulary import row_best, vocabulary_logits

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("softcap", (None, 30.0))
def test_logits_are_the_product_capped(softcap: float | None, dtype: torch.dtype) -> None:
    x, table = (5 * torch.randn(3, 48)).to(dtype), torch.randn(777, 48).to(dtype)
    out = vocabulary_logits(x, table, softcap)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, logits(x.float(), table.float(), softcap), rtol=1e-5, atol=2e-5)
    assert vocabulary_logits(x[:0], table, softcap).shape == (0, 777)


@pytest.mark.parametrize("size", (1, 41, 1025, STRETCH, 2 * STRETCH + 3))
def test_the_first_of_the_greatest(size: int) -> None:
    y = torch.from_numpy(np.random.default_rng(0).integers(-2, 2, (6, size)).astype(np.float32))
    y[1] = -y[1].abs() - 1
    y[2] = 0.0
    y[2, size // 2 :] = -0.0
    y[3] = -INF
    y[3, size - 1] = -3e38
    y[4, size // 3] = 3e38
    assert row_best(y).tolist() == greedy(y).tolist()
    wide = torch.zeros(6, size + 7)
    wide[:, :size] = y
    assert torch.equal(row_best(wide[:, :size]), row_best(y))
    assert torch.equal(row_best(y[2:3]), row_best(y)[2:3])


@pytest.mark.parametrize("size", (1, 1025, STRETCH + 3))
def test_rows_that_are_not_sound(size: int) -> None:
    y = torch.randn(5, size)
    for row, bad in enumerate((NAN, -NAN, INF)):
        y[row, size // 2] = bad
    y[3] = -INF
    assert row_best(y).tolist() == [-1, -1, -1, -1, int(y[4].argmax())]
    assert row_best(y[:0]).shape == (0,)
