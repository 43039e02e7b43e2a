"""Rows in Triton are the rows: as they are, or scaled and rounded once."""

import pytest
import torch

from quire.kernels.ops.rotary import angles
from quire.kernels.ops.vocabulary import embedding
from quire.kernels.triton.rotary import turn_angles
from quire.kernels.triton.rows import embed, gather_rows


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("scale", (1.0, 50.5))
def test_embedding_equals_the_reference(scale: float, dtype: torch.dtype) -> None:
    table = torch.randn(50, 1100).to(dtype)
    ids = torch.tensor([49, 0, 3, 3])
    assert torch.equal(embed(ids, table, scale), embedding(ids, table, scale))
    assert torch.equal(embed(ids.int(), table[:, 5:905], scale), embedding(ids, table[:, 5:905], scale))
    assert embed(ids[:0], table, scale).shape == (0, 1100)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.int64, torch.float64))
def test_rows_are_copied_whatever_they_hold(dtype: torch.dtype) -> None:
    x = torch.randn(6, 3, 40).to(dtype)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(gather_rows(x, rows), x[rows])
    assert torch.equal(gather_rows(x[:, 1], rows), x[:, 1][rows])
    assert torch.equal(gather_rows(x.transpose(1, 2), rows), x.transpose(1, 2)[rows])
    assert gather_rows(x, rows[:0]).shape == (0, 3, 40)


def test_angles_equal_the_reference() -> None:
    positions, inv_freq = torch.tensor([0, 1, 77, 131_071]), 10_000.0 ** -(torch.arange(40) / 40)
    for found, expected in zip(turn_angles(positions, inv_freq, 1.25), angles(positions, inv_freq, 1.25), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert turn_angles(positions[:0], inv_freq, 1.0)[0].shape == (0, 40)
