"""Gated activations: their definitions, and no trace of neighbours."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.ops.registry import Op

BODIES = {
    "silu": (silu_and_mul, lambda gate: F.silu(gate)),
    "gelu_tanh": (gelu_tanh_and_mul, lambda gate: F.gelu(gate, approximate="tanh")),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", BODIES)
def test_is_the_definition(name: str, dtype: torch.dtype) -> None:
    op, activation = BODIES[name]
    x = torch.randn(5, 2 * 33).to(dtype)
    before = x.clone()
    out = op(x)
    assert out.shape == (5, 33)
    assert out.dtype == dtype
    expected = activation(x[:, :33].double()) * x[:, 33:].double()
    torch.testing.assert_close(out.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-3)
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", (1, 31, 1536))
@pytest.mark.parametrize("name", BODIES)
def test_rows_do_not_depend_on_neighbours(name: str, size: int) -> None:
    op: Op[[Tensor], Tensor] = BODIES[name][0]
    x = torch.randn(40, 2 * size)
    whole = op(x)
    for count in (1, 3, 7, 33):
        assert torch.equal(op(x[5 : 5 + count]), whole[5 : 5 + count])
