"""Gated activations in Triton: the references', to the rounding of exp."""

import pytest
import torch

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.triton.activation import gelu_tanh_rows, silu_rows

BODIES = {"silu": (silu_and_mul, silu_rows), "gelu": (gelu_tanh_and_mul, gelu_tanh_rows)}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", BODIES)
def test_equals_the_reference(name: str, dtype: torch.dtype) -> None:
    op, body = BODIES[name]
    x = (3 * torch.randn(3, 2 * 1100)).to(dtype)
    x[0, :4] = torch.tensor([60.0, -60.0, 0.0, -0.0])
    out = body(x)
    assert out.dtype == dtype and out.shape == (3, 1100)
    torch.testing.assert_close(out, op(x), rtol=max(2e-6, torch.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize("name", BODIES)
def test_rows_do_not_depend_on_neighbours_or_strides(name: str) -> None:
    _, body = BODIES[name]
    wide = torch.randn(4, 300)
    x = wide[:, :200]
    whole = body(x)
    assert torch.equal(whole, body(x.contiguous()))
    assert torch.equal(whole[2:3], body(x[2:3]))
    assert torch.equal(body(wide[:, ::2]), body(wide[:, ::2].clone()))
    assert body(x[:0]).shape == (0, 100)
