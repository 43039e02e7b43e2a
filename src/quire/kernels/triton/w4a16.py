"""Products with weights of 4 bits on a CUDA device.

Contract: as ``w4a16_linear``. Codes become numbers of x's dtype in registers, by their bits alone: behind the exponent
of 128 (bfloat16) or 1024 (float16) a code is a mantissa. Less the zero, treated alike, they are small whole numbers,
exact; products with x are summed in float32 over a group, and scaled then. So weights are never rounded. Half a run of
columns lies in the low halves of its bytes, the other half in the high ones: two products with two stretches of x, and
no bit moves sideways. The weight is the first operand, which the large instructions take from registers.

Up to THIN_ROWS rows each warp sums every SLICES-th run by itself; in each regime a row's bits do not depend on its
company. Inputs that act-order sorts are gathered before, by a kernel of their own.

Bound: up to 64 rows the reading of codes, then the tensor cores, at bfloat16's rate.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.w4a16 import TILE_ROWS, W4Matrix, half, w4a16_linear
from quire.kernels.triton.matmul import finish
from quire.kernels.triton.product_tiles import THIN_ROWS, w4_thin_tile, w4_wide_tile
from quire.kernels.triton.products import grouped_order
from quire.kernels.triton.rows import in_rows
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _number(code, DTYPE: tl.constexpr):
    """uint8 below 128 -> 128 (bfloat16) or 1024 (float16) + code, exactly."""
    EXPONENT: tl.constexpr = 0x4300 if tl.bfloat16 == DTYPE else 0x6400
    return (code.to(tl.int16) | EXPONENT).to(DTYPE, bitcast=True)


@triton.jit
def _zero(zeros, at, there, spare, DTYPE: tl.constexpr):
    """Groups' zeros as codes are; without any, ``spare``, which nobody reads."""
    return spare if zeros is None else _number(tl.load(zeros + at, there, other=0), DTYPE)


@triton.jit
def _whole(code, zero, HAS_ZEROS: tl.constexpr, DTYPE: tl.constexpr):
    """Codes less their zeros, or less 8, exactly."""
    EIGHT: tl.constexpr = 136.0 if DTYPE == tl.bfloat16 else 1032.0  # noqa: SIM300
    return _number(code, DTYPE) - (zero if HAS_ZEROS else tl.full(code.shape, EIGHT, tl.float32).to(DTYPE))


@triton.jit
def _thin_w4(
    x, data, scales, zeros, bias, residual, out, num_rows, num_out, num_runs, num_columns, stride_x, stride_r,
    PER_RUN: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = x.dtype.element_ty
    HAS_ZEROS: tl.constexpr = zeros is not None
    m = tl.arange(0, ROWS)
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    slot = tl.arange(0, SLICES)
    byte = tl.arange(0, HALF)
    is_row = (m < num_rows)[None, :, None]
    x_from = x + m[None, :, None] * stride_x + (slot[:, None] * 2 * HALF + byte[None, :])[:, None, :]
    d_from = data + (n // 64).to(tl.int64)[None, :, None] * num_runs * (64 * HALF) + (n % 64)[None, :, None] * HALF
    d_from += (slot[:, None] * (64 * HALF) + byte[None, :])[:, None, :]
    total = tl.zeros([SLICES, OUTPUTS, ROWS], tl.float32)
    there = (slot < num_runs)[:, None] & (n < num_columns)[None, :]
    at = (slot * PER_RUN)[:, None] * num_columns + n[None, :]
    next_scale = tl.load(scales + at, there, other=0.0)
    next_zero = _zero(zeros, at, there, next_scale, DTYPE)
    if PER_RUN == 2:
        next_high_scale = tl.load(scales + at + num_columns, there, other=0.0)
        next_high_zero = _zero(zeros, at + num_columns, there, next_high_scale, DTYPE)
    for run in range(0, num_runs, SLICES):
        scale, zero = next_scale.to(tl.float32)[:, :, None], next_zero[:, :, None]
        there = (run + SLICES + slot < num_runs)[:, None] & (n < num_columns)[None, :]
        at = ((run + SLICES + slot) * PER_RUN)[:, None] * num_columns + n[None, :]
        next_scale = tl.load(scales + at, there, other=0.0)
        next_zero = _zero(zeros, at, there, next_scale, DTYPE)
        inside = (run + slot < num_runs)[:, None, None]
        codes = tl.load(d_from + run * (64 * HALF), inside, other=0)
        low = tl.load(x_from + run * (2 * HALF), is_row & inside, other=0.0)
        high = tl.load(x_from + run * (2 * HALF) + HALF, is_row & inside, other=0.0)
        part = tl.dot(_whole(codes & 15, zero, HAS_ZEROS, DTYPE), low.trans(0, 2, 1))
        if PER_RUN == 1:
            total += tl.dot(_whole(codes >> 4, zero, HAS_ZEROS, DTYPE), high.trans(0, 2, 1), part) * scale
        else:
            total += part * scale
            scale, zero = next_high_scale.to(tl.float32)[:, :, None], next_high_zero[:, :, None]
            next_high_scale = tl.load(scales + at + num_columns, there, other=0.0)
            next_high_zero = _zero(zeros, at + num_columns, there, next_high_scale, DTYPE)
            total += tl.dot(_whole(codes >> 4, zero, HAS_ZEROS, DTYPE), high.trans(0, 2, 1)) * scale
    y, is_out = tl.sum(total, 0), (n < num_out)[:, None]
    finish(y, out, bias, residual, m[None, :], n[:, None], (m < num_rows)[None, :], is_out, num_out, stride_r)


@triton.jit
def _wide_w4(
    x, data, scales, zeros, bias, residual, out, num_rows, num_out, num_runs, num_columns, stride_x, stride_r,
    PER_RUN: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = x.dtype.element_ty
    HAS_ZEROS: tl.constexpr = zeros is not None
    row_tile, out_tile = grouped_order(tl.program_id(0), tl.cdiv(num_rows, ROWS), tl.cdiv(num_out, OUTPUTS), GROUP)
    m = row_tile * ROWS + tl.arange(0, ROWS)
    n = out_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    byte = tl.arange(0, HALF)
    is_row = (m < num_rows)[:, None]
    is_column = n < num_columns
    x_from = x + m.to(tl.int64)[:, None] * stride_x + byte[None, :]
    d_from = data + (n // 64).to(tl.int64)[:, None] * num_runs * (64 * HALF) + (n % 64)[:, None] * HALF + byte[None, :]
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    next_scale = tl.load(scales + n, is_column, other=0.0)
    if PER_RUN == 2:
        next_high_scale = tl.load(scales + num_columns + n, is_column, other=0.0)
    for run in range(num_runs):
        at = run * PER_RUN * num_columns + n
        there = is_column & (run + 1 < num_runs)
        codes = tl.load(d_from + run * (64 * HALF), is_column[:, None], other=0)
        low = tl.load(x_from + run * (2 * HALF), is_row, other=0.0)
        high = tl.load(x_from + run * (2 * HALF) + HALF, is_row, other=0.0)
        scale = next_scale.to(tl.float32)[:, None]
        next_scale = tl.load(scales + at + PER_RUN * num_columns, there, other=0.0)
        # Zeros are fetched ahead by Triton, as all that the products themselves need.
        zero = _zero(zeros, at[:, None], is_column[:, None], scale, DTYPE)
        part = tl.dot(_whole(codes & 15, zero, HAS_ZEROS, DTYPE), low.T)
        if PER_RUN == 1:
            total += tl.dot(_whole(codes >> 4, zero, HAS_ZEROS, DTYPE), high.T, part) * scale
        else:
            total += part * scale
            scale = next_high_scale.to(tl.float32)[:, None]
            next_high_scale = tl.load(scales + at + (PER_RUN + 1) * num_columns, there, other=0.0)
            zero = _zero(zeros, (at + num_columns)[:, None], is_column[:, None], scale, DTYPE)
            total += tl.dot(_whole(codes >> 4, zero, HAS_ZEROS, DTYPE), high.T) * scale
    finish(
        total, out, bias, residual, m[None, :], n[:, None], (m < num_rows)[None, :], (n < num_out)[:, None], num_out,
        stride_r,
    )  # fmt: skip


@w4a16_linear.on("cuda")
def multiply_w4(x: Tensor, weight: W4Matrix, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """See w4a16_linear. Rows of float32, which codes have no quick way to, are multiplied as the reference does."""
    if x.dtype == torch.float32:
        return w4a16_linear.reference(x, weight, bias, residual)
    num_rows, size = len(x), half(weight.group_size)
    out = torch.empty((num_rows, weight.num_out), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    x = in_rows(x) if weight.order is None else x.index_select(1, weight.order)
    residual = None if residual is None else in_rows(residual)
    args = (x, weight.data, weight.scales, weight.zeros, bias, residual, out, num_rows, weight.num_out)
    sizes = (weight.num_in // (2 * size), weight.scales.shape[1], x.stride(0))
    stride_r = 0 if residual is None else residual.stride(0)
    layout = {"PER_RUN": 2 * size // weight.group_size, "HALF": size}
    if num_rows <= THIN_ROWS:
        thin = w4_thin_tile(num_rows, weight.num_out, weight.num_in)
        _thin_w4[(triton.cdiv(weight.num_out, thin.outputs),)](
            *args,
            *sizes,
            stride_r,
            **layout,
            ROWS=thin.rows,
            OUTPUTS=thin.outputs,
            SLICES=thin.slices,
            num_warps=thin.num_warps,
            num_stages=thin.num_stages,
        )
        return out
    wide = w4_wide_tile(num_rows, weight.num_out)
    _wide_w4[(triton.cdiv(num_rows, wide.rows) * triton.cdiv(weight.num_out, wide.outputs),)](
        *args,
        *sizes,
        stride_r,
        **layout,
        ROWS=wide.rows,
        OUTPUTS=wide.outputs,
        GROUP=wide.group,
        num_warps=wide.num_warps,
        num_stages=wide.num_stages,
    )
    return out


def _call(num_rows: int, num_out: int, num_in: int, group_size: int, *, has_zeros: bool) -> object:
    size, tiles = half(group_size), -(-num_out // TILE_ROWS)
    data = blank(tiles, num_in // (2 * size), TILE_ROWS, size, dtype=torch.uint8)
    scales = blank(num_in // group_size, tiles * TILE_ROWS, dtype=torch.float16)
    zeros = blank(*scales.shape, dtype=torch.uint8) if has_zeros else None
    matrix = W4Matrix(data, scales, zeros, None, num_out, num_in, group_size)
    return multiply_w4(blank(num_rows, num_in), matrix, None, blank(num_rows, num_out))


def _variant(num_rows: int, num_out: int, num_in: int, group_size: int, *, has_zeros: bool) -> Variant:
    name = f"{num_rows} x {num_out} x {num_in}, groups of {group_size}{', zeros' if has_zeros else ''}"
    expects = {"_thin_w4": {"HMMA": 4, "LDGSTS.128": 4}}
    if num_rows > THIN_ROWS:
        expects = {"_wide_w4": {"HGMMA": 4, "LDGSTS.128": 4}}
    return Variant(name, lambda: _call(num_rows, num_out, num_in, group_size, has_zeros=has_zeros), expects)


VARIANTS = [
    _variant(1, 6144, 4096, 128, has_zeros=True),
    _variant(8, 28672, 4096, 128, has_zeros=False),
    _variant(32, 4096, 14336, 64, has_zeros=True),
    _variant(16, 4096, 4096, 32, has_zeros=False),
    _variant(4096, 28672, 4096, 128, has_zeros=True),
    _variant(128, 4096, 14336, 128, has_zeros=False),
    _variant(4096, 6144, 4096, 32, has_zeros=False),
]
