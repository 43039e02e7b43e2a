"""Gated activations on a CUDA device.

Contract: a program computes one stretch of one row; an element's bits depend on the element alone.

Bound: memory, two reads and one write an element.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.triton.products import gated
from quire.kernels.triton.rows import in_rows
from quire.kernels.triton.tuning import ELEMENTS
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _gate_and_mul(x, out, size, stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(x + row * stride + column, inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + size + column, inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, gated(gate, up, ACTIVATION).to(out.dtype.element_ty), inside)


@silu_and_mul.on("cuda")
def silu_rows(x: Tensor) -> Tensor:
    """See silu_and_mul."""
    return _launch(x, "silu")


@gelu_tanh_and_mul.on("cuda")
def gelu_tanh_rows(x: Tensor) -> Tensor:
    """See gelu_tanh_and_mul."""
    return _launch(x, "gelu_tanh")


def _launch(x: Tensor, activation: str) -> Tensor:
    x = in_rows(x)
    num_rows, size = x.shape[0], x.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    if out.numel():
        block, num_warps = ELEMENTS
        grid = (num_rows, triton.cdiv(size, block))
        _gate_and_mul[grid](x, out, size, x.stride(0), ACTIVATION=activation, BLOCK=block, num_warps=num_warps)
    return out


_WIDE = {"_gate_and_mul": {"LDG.128": 2, "STG.128": 1}}

VARIANTS = [
    Variant("silu bfloat16", lambda: silu_rows(blank(64, 2 * 14336)), _WIDE),
    Variant("gelu bfloat16", lambda: gelu_tanh_rows(blank(64, 2 * 14336)), _WIDE),
    Variant("silu float32", lambda: silu_rows(blank(64, 2 * 14336, dtype=torch.float32)), _WIDE),
]
