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

from quire.kernels.triton.product_tiles import THIN_ROWS, ThinTile, WideTile, thin_tile, wide_tile
from quire.kernels.triton.products import gated, grouped_order, thin_sums, thin_sums_of_two, wide_sums
from quire.kernels.triton.rows import in_rows


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
    x, x_scale, weight, weight_scale, out, num_rows, num_out, num_in, stride_x, stride_xs, stride_ws,
    ACTIVATION: tl.constexpr, KIND: tl.constexpr, ROUNDS: tl.constexpr, IS_EVEN: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, SLICES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    m = tl.arange(0, ROWS)
    start = tl.program_id(0) * OUTPUTS
    n = start + tl.arange(0, OUTPUTS)
    is_row = m < num_rows
    at = n % num_out
    gate, up = thin_sums_of_two(
        x, x_scale, weight, weight_scale, m * stride_x, m * stride_xs, is_row, at.to(tl.int64) * num_in,
        start // 128 * stride_ws, (num_out + at).to(tl.int64) * num_in, (num_out + start) // 128 * stride_ws, num_in,
        KIND, ROUNDS, IS_EVEN, SLICES, DEPTH,
    )  # fmt: skip
    if KIND == "rows":
        of_row = tl.load(x_scale + m * stride_xs, is_row, other=0.0)[None, :]
        gate = gate * of_row * tl.load(weight_scale + at)[:, None]
        up = up * of_row * tl.load(weight_scale + num_out + at)[:, None]
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
    tile: ThinTile | WideTile | None = None,
) -> Tensor:
    """x [T, K] by weight [N, K], of ``kind`` (see products), in ``dtype``: [T, N].

    ``x_scale``: [1] for all rows, [T, 1], or with "blocks" [T, K / 128]. ``weight_scale``: [N], or with "blocks"
    [N / 128, K / 128]. For at most THIN_ROWS rows, x may come unrounded: with "rows" and one scale for all, or with
    "blocks" and none, where 8 rows are the most. ``tile``: another than the one of ``product_tiles``, to compare.
    """
    num_rows, num_in = x.shape
    num_out = weight.shape[0]
    out = torch.empty((num_rows, num_out), dtype=dtype, device=x.device)
    if not out.numel():
        return out
    if tile is None:
        is_thin = num_rows <= THIN_ROWS
        size = weight.itemsize
        tile = thin_tile(num_rows, num_out, num_in, size) if is_thin else wide_tile(num_rows, num_out, size)
    x, residual = in_rows(x), None if residual is None else in_rows(residual)
    args = (x, x_scale, weight, weight_scale, bias, residual, out, num_rows, num_out, num_in)
    strides = (*_strides(x, x_scale, weight_scale), 0 if residual is None else residual.stride(0))
    shared = {"KIND": kind, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    if isinstance(tile, ThinTile):
        _thin[(triton.cdiv(num_out, tile.outputs),)](
            *args,
            *strides,
            **shared,
            ROUNDS=x.dtype != weight.dtype,
            IS_EVEN=num_in % (tile.slices * tile.depth) == 0,
            SLICES=tile.slices,
            **options,
        )
    else:
        assert x.dtype == weight.dtype
        grid = (triton.cdiv(num_rows, tile.rows) * triton.cdiv(num_out, tile.outputs),)
        _wide[grid](*args, *strides, **shared, IS_EVEN=num_in % tile.depth == 0, GROUP=tile.group, **options)
    return out


def multiply_gated(
    x: Tensor,
    weight: Tensor,
    kind: str,
    dtype: torch.dtype,
    activation: str,
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    tile: ThinTile | None = None,
) -> Tensor:
    """activation(x G^T) * (x U^T) of weight [2F, K] = [G; U] for at most THIN_ROWS rows, not of int8: [T, F].

    Else as ``multiply``; with "blocks", F is a multiple of 128.
    """
    num_rows, num_in = x.shape
    num_out = weight.shape[0] // 2
    out = torch.empty((num_rows, num_out), dtype=dtype, device=x.device)
    if not out.numel():
        return out
    x = in_rows(x)
    tile = tile or thin_tile(num_rows, num_out, num_in, weight.itemsize, is_gated=True)
    _thin_gated[(triton.cdiv(num_out, tile.outputs),)](
        x,
        x_scale,
        weight,
        weight_scale,
        out,
        num_rows,
        num_out,
        num_in,
        *_strides(x, x_scale, weight_scale),
        ACTIVATION=activation,
        KIND=kind,
        ROUNDS=x.dtype != weight.dtype,
        IS_EVEN=num_in % (tile.slices * tile.depth) == 0,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        SLICES=tile.slices,
        DEPTH=tile.depth,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def _strides(x: Tensor, x_scale: Tensor | None, weight_scale: Tensor | None) -> tuple[int, int, int]:
    """Of rows, of their scales (0 where one is all rows'), and of rows of blocks."""
    of_x_scale = x_scale.stride(0) if x_scale is not None and x_scale.dim() == 2 else 0
    of_weight_scale = weight_scale.stride(0) if weight_scale is not None and weight_scale.dim() == 2 else 0
    return x.stride(0), of_x_scale, of_weight_scale
