"""Products with weights of 4 bits in Triton: the reference's numbers, and the same bits for a row in any company."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.w4a16 import W4Matrix, W4Numbers, pack, w4a16_linear
from quire.kernels.triton.product_tiles import THIN_ROWS
from quire.kernels.triton.w4a16 import multiply_w4


def matrix(n: int, k: int, group: int, *, has_zeros: bool = True, has_order: bool = False) -> W4Matrix:
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scales = (torch.rand(n, k // group) / k**0.5 + 0.01).half()
    zeros = torch.randint(0, 17, (n, k // group), dtype=torch.uint8) if has_zeros else None
    return pack(W4Numbers(codes, scales, zeros, torch.randperm(k).int() if has_order else None))


def check(weight: W4Matrix, num_rows: int, dtype: torch.dtype = torch.bfloat16) -> None:
    x, bias = (
        torch.randn(num_rows, 2 * weight.num_in).to(dtype)[:, : weight.num_in],
        torch.randn(weight.num_out).to(dtype),
    )
    residual = torch.randn(num_rows, weight.num_out).to(dtype)
    near = {"rtol": torch.finfo(dtype).eps, "atol": 1e-4}
    for more in ((), (bias, residual)):
        y = multiply_w4(x, weight, *more)
        assert y.dtype == dtype
        torch.testing.assert_close(y, w4a16_linear(x, weight, *more), **near)


@pytest.mark.parametrize("num_rows", (1, 11, THIN_ROWS + 9))
@pytest.mark.parametrize("group", (32, 64, 128))
def test_is_the_reference(group: int, num_rows: int) -> None:
    """A run of K is left over for the last slice, and the last tile of features is not full."""
    check(matrix(72, 640, group), num_rows)


@pytest.mark.parametrize("num_rows", (3, THIN_ROWS + 1))
def test_symmetric_float16_and_ordered_inputs(num_rows: int) -> None:
    check(matrix(64, 256, 64, has_zeros=False), num_rows)
    check(matrix(64, 256, 128), num_rows, torch.float16)
    check(matrix(64, 256, 128, has_zeros=False), num_rows, torch.float16)
    check(matrix(40, 256, 32, has_order=True), num_rows)
    check(matrix(40, 256, 64), num_rows, torch.float32)


def test_a_row_has_the_same_bits_alone() -> None:
    weight, x = matrix(72, 640, 128), torch.randn(THIN_ROWS + 40, 640).bfloat16()

    def answer(rows: slice) -> Tensor:
        return multiply_w4(x[rows], weight)

    few = answer(slice(0, THIN_ROWS))
    for rows in (slice(0, 1), slice(3, 8), slice(9, 21)):
        assert torch.equal(answer(rows), few[rows])
    assert torch.equal(answer(slice(0, THIN_ROWS + 1)), answer(slice(0, len(x)))[: THIN_ROWS + 1])
    assert answer(slice(0, 0)).shape == (0, 72)
