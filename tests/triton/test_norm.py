"""RMS norm in Triton: the definition, whatever lies around a row."""

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.norm import rms_norm
from quire.kernels.triton.norm import norm_rows


def exact(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", ((1, 8), (5, 577), (3, 4, 64), (2, 1024)))
def test_is_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1])
    for given in (weight.to(dtype), weight):
        out = norm_rows(x, given, 1e-5)
        assert out.dtype == dtype and out.is_contiguous()
        error = torch.finfo(dtype).eps if dtype != torch.float32 else 4e-7
        torch.testing.assert_close(out.double(), exact(x, given, 1e-5), rtol=error, atol=1e-6)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_residual_is_added_after_rounding(dtype: torch.dtype) -> None:
    x, residual, weight = torch.randn(4, 96).to(dtype), torch.randn(4, 96).to(dtype), torch.randn(96).to(dtype)
    out = norm_rows(x, weight, 1e-6, residual)
    assert torch.equal(out, residual + norm_rows(x, weight, 1e-6))
    torch.testing.assert_close(out, rms_norm(x, weight, 1e-6, residual), rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_strides_and_neighbours_do_not_show() -> None:
    weight = torch.randn(48)
    wide = torch.randn(6, 5, 96)
    expected = norm_rows(wide[:, 1:4, :48].contiguous(), weight, 1e-6)
    assert torch.equal(norm_rows(wide[:, 1:4, :48], weight, 1e-6), expected)
    assert torch.equal(norm_rows(wide[:, 1:4, :48][2:3], weight, 1e-6), expected[2:3])
    assert torch.equal(norm_rows(wide[:, 1, :48], weight, 1e-6), expected[:, 0])
    assert torch.equal(
        norm_rows(wide[:, 1:4, :96:2], weight, 1e-6), norm_rows(wide[:, 1:4, :96:2].clone(), weight, 1e-6)
    )


def test_nothing_to_norm() -> None:
    assert norm_rows(torch.randn(0, 8), torch.randn(8), 1e-6).shape == (0, 8)
