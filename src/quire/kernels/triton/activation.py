"""Gated activations on a CUDA device.

Contract: a program computes one stretch of one row; an element's bits depend on the element alone. gelu's tanh is
written by the logistic function: (1 + tanh u) / 2 = 1 / (1 + exp(-2u)).

Bound: memory, two reads and one write an element.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.triton.tuning import ELEMENTS
from quire.kernels.triton.variant import Variant, blank

_TWICE_SLOPE = 2 * math.sqrt(2 / math.pi)


@triton.jit
def _gate_and_mul(x, out, size, stride, twice_slope, IS_GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(x + row * stride + column, inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + size + column, inside, other=0.0).to(tl.float32)
    argument = gate
    if IS_GELU:
        argument = twice_slope * (gate + 0.044715 * gate * gate * gate)
    gated = gate / (1.0 + tl.exp(-argument)) * up
    tl.store(out + row * size + column, gated.to(out.dtype.element_ty), inside)


@silu_and_mul.on("cuda")
def silu_rows(x: Tensor) -> Tensor:
    """See silu_and_mul."""
    return _launch(x, is_gelu=False)


@gelu_tanh_and_mul.on("cuda")
def gelu_tanh_rows(x: Tensor) -> Tensor:
    """See gelu_tanh_and_mul."""
    return _launch(x, is_gelu=True)


def _launch(x: Tensor, *, is_gelu: bool) -> Tensor:
    x = x if x.stride(1) == 1 else x.contiguous()
    num_rows, size = x.shape[0], x.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    if out.numel():
        block, num_warps = ELEMENTS
        grid = (num_rows, triton.cdiv(size, block))
        _gate_and_mul[grid](x, out, size, x.stride(0), _TWICE_SLOPE, IS_GELU=is_gelu, BLOCK=block, num_warps=num_warps)
    return out


_WIDE = {"_gate_and_mul": {"LDG.128": 2, "STG.128": 1}}

VARIANTS = [
    Variant("silu bfloat16", lambda: silu_rows(blank(64, 2 * 14336)), _WIDE),
    Variant("gelu bfloat16", lambda: gelu_tanh_rows(blank(64, 2 * 14336)), _WIDE),
    Variant("silu float32", lambda: silu_rows(blank(64, 2 * 14336, dtype=torch.float32)), _WIDE),
]
