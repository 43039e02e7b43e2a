"""RMS norm: its definition, and no trace of neighbours or strides."""

import pytest
import torch

from quire.kernels.ops.norm import rms_norm


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", ((1, 8), (5, 577), (3, 4, 64)))
def test_is_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    wide = x.double()
    expected = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    out = rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype
    assert out.is_contiguous()
    torch.testing.assert_close(out.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_float32_weight_is_not_rounded_to_the_rows_type() -> None:
    weight = torch.full((4,), 1 + 2.0**-12)
    x = torch.full((1, 4), 3.0, dtype=torch.bfloat16)
    assert rms_norm(x, weight, 0.0).dtype == torch.bfloat16
    assert rms_norm(x.float(), weight, 0.0)[0, 0] == weight[0]


@pytest.mark.parametrize("size", (63, 576))
def test_rows_do_not_depend_on_neighbours_or_strides(size: int) -> None:
    x, weight = torch.randn(40, 2 * size), torch.randn(size)
    strided = x[:, :size]
    whole = rms_norm(strided, weight, 1e-6)
    assert torch.equal(whole, rms_norm(strided.contiguous(), weight, 1e-6))
    for count in (1, 3, 7, 33):
        assert torch.equal(rms_norm(strided[5 : 5 + count], weight, 1e-6), whole[5 : 5 + count])
