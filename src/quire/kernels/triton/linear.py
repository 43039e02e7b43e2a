"""Unquantized products on a CUDA device: few rows by kernels of our own, more by the vendor's library.

Contract: as ``linear``, but for batch invariance: the library chooses the order of a sum by the number of rows, and
kernels change at THIN_PLAIN_ROWS. Up to there a row's bits do not depend on its company.

Bound: up to 16 rows the reading of the weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.linear import Activation, gate, gated_linear, linear
from quire.kernels.triton.matmul import multiply, multiply_gated
from quire.kernels.triton.product_tiles import THIN_PLAIN_ROWS
from quire.kernels.triton.variant import Variant, blank

_DTYPES = (torch.bfloat16, torch.float16)


@linear.on("cuda")
def multiply_plain(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """See linear."""
    if _is_thin(x, weight):
        return multiply(x, weight, "plain", x.dtype, None, None, bias, residual)
    y = F.linear(x, weight, bias)
    return y if residual is None else y.add_(residual)


@gated_linear.on("cuda")
def multiply_gates(x: Tensor, weight: Tensor, activation: Activation) -> Tensor:
    """See gated_linear."""
    if _is_thin(x, weight):
        return multiply_gated(x, weight, "plain", x.dtype, activation)
    return gate(F.linear(x, weight), activation)


def _is_thin(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels here read it as fast as memory gives it."""
    is_fit = x.dtype in _DTYPES and x.shape[1] % 16 == 0 and x.stride(0) % 8 == 0 and weight.is_contiguous()
    return is_fit and len(x) <= THIN_PLAIN_ROWS


def _call(num_rows: int, num_out: int, num_in: int, *, has_residual: bool = False, is_gated: bool = False) -> object:
    x, weight = blank(num_rows, num_in), blank(num_out, num_in)
    if is_gated:
        return multiply_gates(x, weight, "silu")
    return multiply_plain(x, weight, None, blank(num_rows, num_out) if has_residual else None)


VARIANTS = [
    Variant(
        "Llama-3.1-8B qkv, 1 row",
        lambda: _call(1, 6144, 4096),
        {"_thin": {"HMMA": 4, "LDGSTS.128": 16}},
    ),
    Variant(
        "Llama-3.1-8B down, 8 rows, residual",
        lambda: _call(8, 4096, 14336, has_residual=True),
        {"_thin": {"HMMA": 4, "LDGSTS.128": 16}},
    ),
    Variant(
        "Llama-3.1-8B gate and up, 16 rows",
        lambda: _call(16, 28672, 4096, is_gated=True),
        {"_thin_gated": {"HMMA": 4, "LDGSTS.128": 16}},
    ),
]
