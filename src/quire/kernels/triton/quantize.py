"""Rounds activations to 8 bits on a CUDA device, by scales that they or the checkpoint give.

Contract: as ``quantize_fp8`` and ``quantize_int8``, bit for bit. A program takes a row, or some groups of one, which
lie in registers between the search for the greatest and the rounding; a row is read once.

Bound: memory, one read and a write of half as much.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.fp8 import FP8, quantize_fp8, quantize_fp8_static
from quire.kernels.ops.w8a8 import quantize_int8, quantize_int8_static
from quire.kernels.triton.products import fp8_scale, round_to_fp8, round_to_int8
from quire.kernels.triton.rows import in_rows
from quire.kernels.triton.tuning import row_tile
from quire.kernels.triton.variant import Variant, blank

_GROUPS = 8
"""That a program takes."""
_STATIC_BLOCK = 2048


@triton.jit
def _round_rows(x, out, scales, size, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    wide = tl.load(x + row * stride + column, inside, other=0.0).to(tl.float32)
    greatest = tl.max(tl.abs(wide), 0)
    if out.dtype.element_ty == tl.int8:
        scale = tl.div_rn(tl.maximum(greatest, 1e-10), 127.0)
        tl.store(out + row * size + column, round_to_int8(wide, scale), inside)
    else:
        scale = fp8_scale(greatest)
        tl.store(out + row * size + column, round_to_fp8(wide, scale), inside)
    tl.store(scales + row, scale)


@triton.jit
def _round_groups(x, out, scales, size, stride, num_groups, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = column < size
    wide = tl.load(x + row * stride + column, inside, other=0.0).to(tl.float32)
    scale = fp8_scale(tl.max(tl.abs(wide), 1))
    tl.store(out + row * size + column, round_to_fp8(wide, scale[:, None]), inside)
    tl.store(scales + row * num_groups + group, scale, group < num_groups)


@triton.jit
def _round_static(x, scale, out, size, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    wide = tl.load(x + row * stride + column, inside, other=0.0).to(tl.float32)
    if out.dtype.element_ty == tl.int8:
        tl.store(out + row * size + column, round_to_int8(wide, tl.load(scale)), inside)
    else:
        tl.store(out + row * size + column, round_to_fp8(wide, tl.load(scale)), inside)


@quantize_fp8.on("cuda")
def round_fp8(x: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
    """See quantize_fp8. A group is a power of two."""
    if group is None:
        return _rows(x, FP8)
    num_rows, size = x.shape
    num_groups = -(-size // group)
    out = torch.empty((num_rows, size), dtype=FP8, device=x.device)
    scales = torch.empty((num_rows, num_groups), dtype=torch.float32, device=x.device)
    if num_rows:
        x = in_rows(x)
        grid = (num_rows, triton.cdiv(num_groups, _GROUPS))
        _round_groups[grid](x, out, scales, size, x.stride(0), num_groups, GROUPS=_GROUPS, GROUP=group, num_warps=4)
    return out, scales


@quantize_int8.on("cuda")
def round_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See quantize_int8."""
    return _rows(x, torch.int8)


@quantize_fp8_static.on("cuda")
def round_fp8_static(x: Tensor, scale: Tensor) -> Tensor:
    """See quantize_fp8_static."""
    return _static(x, scale, FP8)


@quantize_int8_static.on("cuda")
def round_int8_static(x: Tensor, scale: Tensor) -> Tensor:
    """See quantize_int8_static."""
    return _static(x, scale, torch.int8)


def _rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    num_rows, size = x.shape
    out = torch.empty((num_rows, size), dtype=dtype, device=x.device)
    scales = torch.empty((num_rows, 1), dtype=torch.float32, device=x.device)
    if num_rows:
        x = in_rows(x)
        block, num_warps = row_tile(size)
        _round_rows[(num_rows,)](x, out, scales, size, x.stride(0), BLOCK=block, num_warps=num_warps)
    return out, scales


def _static(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    num_rows, size = x.shape
    out = torch.empty((num_rows, size), dtype=dtype, device=x.device)
    if num_rows:
        x = in_rows(x)
        grid = (num_rows, triton.cdiv(size, _STATIC_BLOCK))
        _round_static[grid](x, scale, out, size, x.stride(0), BLOCK=_STATIC_BLOCK, num_warps=4)
    return out


VARIANTS = [
    Variant("fp8, groups of 128", lambda: round_fp8(blank(64, 4096), 128), {"_round_groups": {"LDG.128": 1}}),
    Variant("fp8, tokens", lambda: round_fp8(blank(64, 14336)), {"_round_rows": {"LDG.128": 1}}),
    Variant("int8, tokens", lambda: round_int8(blank(64, 4096)), {"_round_rows": {"LDG.128": 1}}),
    Variant(
        "fp8, static",
        lambda: round_fp8_static(blank(64, 4096), blank(1, dtype=torch.float32)),
        {"_round_static": {"LDG.128": 1}},
    ),
]
