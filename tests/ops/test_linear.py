"""The linear op: right, and the same for a row whoever its neighbours are."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.linear import linear

SHAPES = [(64, 64), (192, 576), (576, 1536), (960, 576), (1536, 576), (64, 8192)]
NUM_ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 17, 23, 31, 33, 64, 100]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(n: int, k: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n * k)
    x = torch.randn(rows, k, generator=draw).to(dtype)
    weight = (torch.randn(n, k, generator=draw) / k**0.5).to(dtype)
    return x, weight, torch.randn(n, generator=draw).to(dtype)


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_the_same_bits_in_any_batch(shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    x, weight, bias = make(*shape, NUM_ROWS[-1], dtype)
    wider = torch.zeros(len(x), shape[1] + 32, dtype=dtype)
    wider[:, : shape[1]] = x
    for b in (None, bias):
        expected = linear(x, weight, b)
        for count in NUM_ROWS:
            for start in {0, 1, len(x) - count}:
                rows = slice(start, min(start + count, len(x)))
                assert torch.equal(linear(x[rows], weight, b), expected[rows]), (count, start)
        strided = wider[:33, : shape[1]]
        assert not strided.is_contiguous()
        assert torch.equal(linear(strided, weight, b), expected[:33])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_is_the_matrix_product(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = make(48, 80, rows, dtype)
    y = linear(x, weight, bias)
    exact = x.double() @ weight.double().T + bias.double()
    assert y.shape == (rows, 48)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)
