"""Rows by one weight, on a CUDA device: what plain, e4m3 and int8 products have in common.

Contract: x [T, K] with rows at any stride, weight [N, K] contiguous, K a multiple of 16 and all bases aligned to 16
bytes; out [T, N] contiguous. Sums in float32 (int32 of int8); scales, bias and residual are applied to them in float32,
and the result is rounded once. A program owns its tile of ``out`` and nothing else; K is never shared out among
programs. Loads are 128 bits wide, asynchronous, several tiles ahead.

Bound: up to 64 rows the reading of the weight, above that the tensor cores.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.triton.product_tiles import THIN_ROWS, thin_tile, wide_tile
from quire.kernels.triton.products import gated, grouped_order, thin_sums, thin_sums_of_two, wide_sums


@triton.jit
def finish(y, out, bias, residual, m, n, is_row, is_out, num_out, stride_r):
    """Add, round and store a tile, m and n being shaped for it."""
    inside = is_row & is_out
    if bias is not None:
        y += tl.load(bias + n, is_out, other=0.0).to(tl.float32)
    if residual is not None:
        y += tl.load(residual + m.to(tl.int64) * stride_r + n, inside, other=0.0).to(tl.float32)
    tl.store(out + m.to(tl.int64) * num_out + n, y.to(out.dtype.element_ty), inside)


@triton.jit
def _thin(
    x, x_scale, weight, weight_scale, bias, residual, out, num_rows, num_out, num_in, stride_x, stride_xs, stride_ws,
    stride_r, KIND: tl.constexpr, ROUNDS: tl.constexpr, IS_EVEN: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, SLICES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    m = tl.arange(0, ROWS)
    block = tl.program_id(0) * OUTPUTS // 128
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row = m < num_rows
    at = n % num_out  # rows behind the last are read from the first: no mask, and nothing is stored of them
    y = thin_sums(
        x, x_scale, weight, weight_scale, m * stride_x, m * stride_xs, is_row, at.to(tl.int64) * num_in,
        block * stride_ws, num_in, KIND, ROUNDS, IS_EVEN, SLICES, DEPTH,
    ).to(tl.float32)  # fmt: skip
    if KIND == "rows":
        y = y * tl.load(x_scale + m * stride_xs, is_row, other=0.0)[None, :] * tl.load(weight_scale + at)[:, None]
    finish(y, out, bias, residual, m[None, :], n[:, None], is_row[None, :], (n < num_out)[:, None], num_out, stride_r)


@triton.jit
def _thin_gated(
    x, weight, out, num_rows, num_out, num_in, stride_x, ACTIVATION: tl.constexpr, IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, SLICES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    m = tl.arange(0, ROWS)
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row = m < num_rows
    at = (n % num_out).to(tl.int64) * num_in
    gate, up = thin_sums_of_two(
        x, None, weight, None, m * stride_x, None, is_row, at, None, at + num_out.to(tl.int64) * num_in, None, num_in,
        "plain", False, IS_EVEN, SLICES, DEPTH,
    )  # fmt: skip
    y = gated(gate, up, ACTIVATION)
    finish(y, out, None, None, m[None, :], n[:, None], is_row[None, :], (n < num_out)[:, None], num_out, 0)


@triton.jit
def _wide(
    x, x_scale, weight, weight_scale, bias, residual, out, num_rows, num_out, num_in, stride_x, stride_xs, stride_ws,
    stride_r, KIND: tl.constexpr, IS_EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row_tile, out_tile = grouped_order(tl.program_id(0), tl.cdiv(num_rows, ROWS), tl.cdiv(num_out, OUTPUTS), GROUP)
    m = row_tile * ROWS + tl.arange(0, ROWS)
    block = out_tile * OUTPUTS // 128
    n = out_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row = m < num_rows
    at = n % num_out
    y = wide_sums(
        x, x_scale, weight, weight_scale, m.to(tl.int64) * stride_x, m * stride_xs, is_row, at.to(tl.int64) * num_in,
        block * stride_ws, num_in, KIND, IS_EVEN, DEPTH,
    ).to(tl.float32)  # fmt: skip
    if KIND == "rows":
        y = y * tl.load(x_scale + m * stride_xs, is_row, other=0.0)[:, None] * tl.load(weight_scale + at)[None, :]
    finish(y, out, bias, residual, m[:, None], n[None, :], is_row[:, None], (n < num_out)[None, :], num_out, stride_r)


def multiply(
    x: Tensor,
    weight: Tensor,
    kind: str,
    dtype: torch.dtype,
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """x [T, K] by weight [N, K], of ``kind`` (see products), in ``dtype``: [T, N].

    ``x_scale``: [1] for all rows, [T, 1], or with "blocks" [T, K / 128]; None there: x is not rounded yet, and is
    rounded on the way; then T is at most 8. ``weight_scale``: [N], or with "blocks" [N / 128, K / 128].
    """
    num_rows, num_in = x.shape
    num_out = weight.shape[0]
    out = torch.empty((num_rows, num_out), dtype=dtype, device=x.device)
    if not out.numel():
        return out
    x, residual = in_rows(x), None if residual is None else in_rows(residual)
    stride_xs = x_scale.stride(0) if x_scale is not None and x_scale.dim() == 2 else 0
    stride_ws = weight_scale.stride(0) if weight_scale is not None and kind == "blocks" else 0
    stride_r = 0 if residual is None else residual.stride(0)
    args = (x, x_scale, weight, weight_scale, bias, residual, out, num_rows, num_out, num_in)
    strides = (x.stride(0), stride_xs, stride_ws, stride_r)
    if num_rows <= THIN_ROWS:
        thin = thin_tile(num_rows, num_out, num_in, weight.itemsize)
        _thin[(triton.cdiv(num_out, thin.outputs),)](
            *args,
            *strides,
            KIND=kind,
            ROUNDS=kind == "blocks" and x_scale is None,
            IS_EVEN=num_in % (thin.slices * thin.depth) == 0,
            ROWS=thin.rows,
            OUTPUTS=thin.outputs,
            SLICES=thin.slices,
            DEPTH=thin.depth,
            num_warps=thin.num_warps,
            num_stages=thin.num_stages,
        )
        return out
    wide = wide_tile(num_rows, num_out, weight.itemsize)
    _wide[(triton.cdiv(num_rows, wide.rows) * triton.cdiv(num_out, wide.outputs),)](
        *args,
        *strides,
        KIND=kind,
        IS_EVEN=num_in % wide.depth == 0,
        ROWS=wide.rows,
        OUTPUTS=wide.outputs,
        DEPTH=wide.depth,
        GROUP=wide.group,
        num_warps=wide.num_warps,
        num_stages=wide.num_stages,
    )
    return out


def multiply_gated(x: Tensor, weight: Tensor, activation: str) -> Tensor:
    """activation(x G^T) * (x U^T) of weight [2F, K] = [G; U], plain, for at most THIN_PLAIN_ROWS rows: [T, F]."""
    num_rows, num_in = x.shape
    num_out = weight.shape[0] // 2
    out = torch.empty((num_rows, num_out), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    x = in_rows(x)
    tile = thin_tile(num_rows, num_out, num_in, weight.itemsize, is_gated=True)
    _thin_gated[(triton.cdiv(num_out, tile.outputs),)](
        x,
        weight,
        out,
        num_rows,
        num_out,
        num_in,
        x.stride(0),
        ACTIVATION=activation,
        IS_EVEN=num_in % (tile.slices * tile.depth) == 0,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        SLICES=tile.slices,
        DEPTH=tile.depth,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def in_rows(x: Tensor) -> Tensor:
    """x [T, K] with its rows' elements side by side."""
    return x if x.stride(1) == 1 else x.contiguous()
