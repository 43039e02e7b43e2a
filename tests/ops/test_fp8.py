"""Products in e4m3 and int8: the numbers, the products, and no trace of neighbours."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.fp8 import dequantize_fp8, fp8_linear, quantize_fp8, quantize_fp8_static
from quire.kernels.ops.w8a8 import quantize_int8, w8a8_linear

K, N = 400, 144


def activations(rows: int) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("group", (None, 128, 64))
def test_numbers_are_near_and_use_the_whole_range(group: int | None) -> None:
    x = activations(5)
    x[3] = 0
    numbers, scale = quantize_fp8(x, group)
    assert scale.shape == (5, 1 if group is None else -(-K // group))
    assert numbers.dtype == torch.float8_e4m3fn
    for row, scales in zip(numbers.float(), scale, strict=True):
        for part, one in zip(row.split(group or K), scales, strict=True):
            assert part.abs().max() in (448.0, 0.0)
            assert one > 0
    wide = numbers.float() * scale.repeat_interleave(group or K, 1)[:, :K]
    torch.testing.assert_close(wide, x.float(), rtol=2**-4, atol=2e-5)


def test_static_scales_clip() -> None:
    x = torch.tensor([[1.0, -3.0, 1000.0, -1000.0]])
    assert quantize_fp8_static(x, torch.tensor([0.5])).tolist() == [[2.0, -6.0, 448.0, -448.0]]


@pytest.mark.parametrize("rows", (0, 1, 7))
@pytest.mark.parametrize("kind", ("static", "token", "blocks", "int8", "int8 static"))
def test_is_the_product_of_what_was_rounded(kind: str, rows: int) -> None:
    draw = torch.Generator().manual_seed(2)
    x, bias, residual = activations(rows), torch.randn(N).bfloat16(), torch.randn(rows, N).bfloat16()
    given = torch.tensor([0.02]) if "static" in kind else None
    if "int8" in kind:
        weight = torch.randint(-127, 128, (N, K), generator=draw, dtype=torch.int8)
        scale = torch.rand(N, generator=draw) + 0.5
        numbers, found = quantize_int8(x)
        seen = numbers.double() * found if given is None else (x.double() / 0.02).round().clamp(-127, 127) * given
        wide, product = weight.double() * scale[:, None], w8a8_linear
    else:
        weight = torch.randn(N, K, generator=draw).to(torch.float8_e4m3fn)
        scale = torch.rand((2, 4) if kind == "blocks" else (N,), generator=draw) + 0.5
        numbers = quantize_fp8_static(x, given).float() * given if given is not None else None
        seen = dequantize_fp8(*quantize_fp8(x, 128 if kind == "blocks" else None)) if numbers is None else numbers
        square = scale.repeat_interleave(128, 0)[:N].repeat_interleave(128, 1)[:, :K] if kind == "blocks" else None
        wide, product = weight.double() * (scale[:, None] if square is None else square), fp8_linear
    y = product(x, weight, scale, given, bias, residual)
    exact = seen.double() @ wide.double().T + bias.double() + residual.double()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-4)
    if rows:
        assert torch.equal(product(x[-1:], weight, scale, given, bias, residual[-1:]), y[-1:])
