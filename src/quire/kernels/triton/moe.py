"""Experts' products on a CUDA device: pairs of one expert are rows by its matrix, gates and ups in one reading.

Contract: as ``grouped_linear`` and ``experts_mlp``. A program takes a tile of pairs of one expert, as ``align`` sorts
them, and a tile of its output features; tiles not in use end at once. Up to DIRECT_PAIRS, each pair is a tile of its
own, and nothing is sorted. Plain weights, e4m3 in blocks and with a scale for each row share the kernels; float32 is
multiplied as three products of tf32. With few rows for each expert a product takes slices of K, with more the large
instructions; within each, a row's bits do not depend on its company.

Bound: at decode the reading of the experts that are met, in prompts the tensor cores.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, FP8
from quire.kernels.ops.linear import Activation
from quire.kernels.ops.moe import experts_mlp, grouped_linear
from quire.kernels.triton.product_tiles import ThinTile, expert_tile
from quire.kernels.triton.products import gated, thin_sums, thin_sums_of_two, wide_sums
from quire.kernels.triton.quantize import round_fp8
from quire.kernels.triton.routing import add_answers, place_pairs
from quire.kernels.triton.rows import in_rows
from quire.kernels.triton.variant import Variant, blank

DIRECT_PAIRS = 32
"""So few pairs mostly meet experts of their own."""


@triton.jit
def _pairs_of(pairs, tile_experts, num_pairs, top_k, IS_DIRECT: tl.constexpr, ROWS: tl.constexpr):
    """The expert of this program's tile, its pairs, num_pairs where there is none, and their rows of x."""
    tile, m = tl.program_id(1), tl.arange(0, ROWS)
    pair = tl.where(m == 0, tile, num_pairs) if IS_DIRECT else tl.load(pairs + tile * ROWS + m)
    return tl.load(tile_experts + tile).to(tl.int64), pair, (pair // top_k).to(tl.int64)


@triton.jit
def _outputs_of(num_out, OUTPUTS: tl.constexpr):
    """This program's first output feature, all of them, and where their weights are: behind the last, the first's."""
    start = tl.program_id(0) * OUTPUTS
    n = start + tl.arange(0, OUTPUTS)
    return start, n, n % num_out


@triton.jit
def _thin_experts(
    x, x_scale, weight, weight_scale, out, pairs, tile_experts, num_pairs, num_experts, num_out, num_in, top_k,
    stride_x, stride_xs, stride_we, stride_ws, KIND: tl.constexpr, ROUNDS: tl.constexpr, ACTIVATION: tl.constexpr,
    IS_DIRECT: tl.constexpr, IS_EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, SLICES: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    expert, pair, row = _pairs_of(pairs, tile_experts, num_pairs, top_k, IS_DIRECT, ROWS)
    if (expert < 0) | (expert >= num_experts):
        return
    is_row = pair < num_pairs
    start, n, at = _outputs_of(num_out, OUTPUTS)
    matrix = weight + expert * num_in * num_out * (1 if ACTIVATION is None else 2)
    scales = None if KIND == "plain" else weight_scale + expert * stride_we
    if ACTIVATION is None:
        y = thin_sums(
            x, x_scale, matrix, scales, row * stride_x, row * stride_xs, is_row, at.to(tl.int64) * num_in,
            start // 128 * stride_ws, num_in, KIND, ROUNDS, IS_EVEN, SLICES, DEPTH,
        )  # fmt: skip
        if KIND == "rows":
            y = y * tl.load(x_scale + row, is_row, other=0.0)[None, :] * tl.load(scales + at)[:, None]
    else:
        gate, up = thin_sums_of_two(
            x, x_scale, matrix, scales, row * stride_x, row * stride_xs, is_row, at.to(tl.int64) * num_in,
            start // 128 * stride_ws, (num_out + at).to(tl.int64) * num_in, (num_out + start) // 128 * stride_ws,
            num_in, KIND, ROUNDS, IS_EVEN, SLICES, DEPTH,
        )  # fmt: skip
        if KIND == "rows":
            of_row = tl.load(x_scale + row, is_row, other=0.0)[None, :]
            gate = gate * of_row * tl.load(scales + at)[:, None]
            up = up * of_row * tl.load(scales + num_out + at)[:, None]
        y = gated(gate, up, ACTIVATION)
    to = out + pair.to(tl.int64)[None, :] * num_out + n[:, None]
    tl.store(to, y.to(out.dtype.element_ty), is_row[None, :] & (n < num_out)[:, None])


@triton.jit
def _wide_experts(
    x, x_scale, weight, weight_scale, out, pairs, tile_experts, num_pairs, num_experts, num_out, num_in, top_k,
    stride_x, stride_xs, stride_we, stride_ws, KIND: tl.constexpr, ACTIVATION: tl.constexpr, IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    expert, pair, row = _pairs_of(pairs, tile_experts, num_pairs, top_k, False, ROWS)
    if (expert < 0) | (expert >= num_experts):
        return
    is_row = pair < num_pairs
    start, n, at = _outputs_of(num_out, OUTPUTS)
    matrix = weight + expert * num_in * num_out * (1 if ACTIVATION is None else 2)
    scales = None if KIND == "plain" else weight_scale + expert * stride_we
    y = wide_sums(
        x, x_scale, matrix, scales, row * stride_x, row * stride_xs, is_row, at.to(tl.int64) * num_in,
        start // 128 * stride_ws, num_in, KIND, IS_EVEN, DEPTH,
    )  # fmt: skip
    if KIND == "rows":
        of_row = tl.load(x_scale + row, is_row, other=0.0)[:, None]
        y = y * of_row * tl.load(scales + at)[None, :]
    if ACTIVATION is not None:
        up = wide_sums(
            x, x_scale, matrix, scales, row * stride_x, row * stride_xs, is_row, (num_out + at).to(tl.int64) * num_in,
            (num_out + start) // 128 * stride_ws, num_in, KIND, IS_EVEN, DEPTH,
        )  # fmt: skip
        if KIND == "rows":
            up = up * of_row * tl.load(scales + num_out + at)[None, :]
        y = gated(y, up, ACTIVATION)
    to = out + pair.to(tl.int64)[:, None] * num_out + n[None, :]
    tl.store(to, y.to(out.dtype.element_ty), is_row[:, None] & (n < num_out)[None, :])


class Tiles(NamedTuple):
    """Pairs in tiles, for both products of a layer."""

    rows: int
    """Of a tile; more than 32 are for the large instructions."""
    pairs: Tensor | None
    """As ``align`` gives them; None: every pair is a tile."""
    experts: Tensor


def tiles_of(experts: Tensor, num_experts: int) -> Tiles:
    """Sort pairs, into tiles as high as the pairs of an expert are many, if they were shared out evenly."""
    num_pairs = experts.numel()
    if num_pairs <= DIRECT_PAIRS:
        return Tiles(8, None, experts.contiguous().view(-1))
    mean = num_pairs / num_experts
    rows = 8 if mean <= 4 else 16 if mean <= 10 else 32 if mean <= 24 else 64 if mean <= 96 else 128
    return Tiles(rows, *place_pairs(experts, num_experts, rows))


def multiply_experts(
    x: Tensor, weight: Tensor, scale: Tensor | None, tiles: Tiles, top_k: int, out: Tensor, activation: str | None
) -> None:
    """x [R, K] by weight [E, N, K] -> out [R * top_k, N], or with an activation [R * top_k, N / 2]."""
    num_pairs, num_out = out.shape
    num_experts, _, num_in = weight.shape
    x = in_rows(x)
    kind = "plain" if scale is None else "blocks" if scale.dim() == 3 else "rows"
    is_rounded_on_the_way = kind == "blocks" and tiles.rows == 8
    x_scale = None
    if kind != "plain" and not is_rounded_on_the_way:
        x, x_scale = round_fp8(x, BLOCK if kind == "blocks" else None)
    args = (x, x_scale, weight, scale, out, tiles.pairs, tiles.experts, num_pairs, num_experts, num_out, num_in, top_k)
    stride_we = 0 if scale is None else scale.stride(0)
    stride_ws = scale.stride(1) if scale is not None and kind == "blocks" else 0
    strides = (x.stride(0), 0 if x_scale is None else x_scale.stride(0), stride_we, stride_ws)
    is_alone, is_gated = tiles.pairs is None, activation is not None
    tile = expert_tile(tiles.rows, num_out, num_in, weight.itemsize, is_alone=is_alone, is_gated=is_gated)
    grid = (triton.cdiv(num_out, tile.outputs), len(tiles.experts))
    shared = {"KIND": kind, "ACTIVATION": activation, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    if isinstance(tile, ThinTile):
        _thin_experts[grid](
            *args,
            *strides,
            **shared,
            ROUNDS=is_rounded_on_the_way,
            IS_DIRECT=is_alone,
            IS_EVEN=num_in % (tile.slices * tile.depth) == 0,
            SLICES=tile.slices,
            **options,
        )
    else:
        _wide_experts[grid](*args, *strides, **shared, IS_EVEN=num_in % tile.depth == 0, **options)


@grouped_linear.on("cuda")
def multiply_grouped(x: Tensor, weight: Tensor, experts: Tensor, scale: Tensor | None = None) -> Tensor:
    """See grouped_linear."""
    num_experts, num_out, _ = weight.shape
    out = torch.zeros((experts.numel(), num_out), dtype=x.dtype, device=x.device)
    if out.numel():
        multiply_experts(x, weight, scale, tiles_of(experts, num_experts), experts.shape[1], out, None)
    return out


@experts_mlp.on("cuda")
def multiply_mlp(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weights: Tensor,
    experts: Tensor,
    activation: Activation = "silu",
    gate_up_scale: Tensor | None = None,
    down_scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See experts_mlp. With scales in blocks, F is a multiple of 128."""
    num_experts, num_out, hidden_size = down.shape
    num_pairs = experts.numel()
    hidden = torch.empty((num_pairs, hidden_size), dtype=x.dtype, device=x.device)
    y = torch.empty((num_pairs, num_out), dtype=x.dtype, device=x.device)
    if num_pairs:
        tiles = tiles_of(experts, num_experts)
        multiply_experts(x, gate_up, gate_up_scale, tiles, experts.shape[1], hidden, activation)
        multiply_experts(hidden, down, down_scale, tiles, 1, y, None)
    return add_answers(y, weights, experts, num_experts, residual)


def _call(num_rows: int, kind: str) -> object:
    """Qwen3-30B-A3B: 8 of 128 experts, 2048 features, 768 inside."""
    shapes = ((128, 1536, 2048), (128, 2048, 768))
    scale_in, scale_out = (
        None
        if kind == "plain"
        else blank(*((e, n // BLOCK, k // BLOCK) if kind == "blocks" else (e, n)), dtype=torch.float32)
        for e, n, k in shapes
    )
    gate_up, down = (blank(*shape, dtype=torch.bfloat16 if kind == "plain" else FP8) for shape in shapes)
    chosen = blank(num_rows, 8, dtype=torch.int32)
    weights = blank(num_rows, 8, dtype=torch.float32)
    x, residual = blank(num_rows, 2048), blank(num_rows, 2048)
    return multiply_mlp(x, gate_up, down, weights, chosen, "silu", scale_in, scale_out, residual)


def _call_float32(num_rows: int) -> object:
    gate_up, down = blank(8, 512, 256, dtype=torch.float32), blank(8, 256, 256, dtype=torch.float32)
    weights, chosen = blank(num_rows, 2, dtype=torch.float32), blank(num_rows, 2, dtype=torch.int32)
    return multiply_mlp(blank(num_rows, 256, dtype=torch.float32), gate_up, down, weights, chosen)


def _variant(num_rows: int, kind: str) -> Variant:
    instruction = "HGMMA" if kind == "plain" else "QGMMA"
    expects = {"_thin_experts": {"HMMA": 4, "LDGSTS.128": 8}}
    if num_rows > 384:
        expects = {"_wide_experts": {instruction: 4, "LDGSTS.128": 8}}
    return Variant(f"{kind}, {num_rows} tokens", lambda: _call(num_rows, kind), expects)


VARIANTS = [
    _variant(1, "blocks"),
    _variant(64, "blocks"),
    _variant(256, "blocks"),
    _variant(4096, "blocks"),
    _variant(1, "plain"),
    _variant(64, "plain"),
    _variant(1024, "plain"),
    _variant(4096, "plain"),
    _variant(64, "rows"),
    _variant(4096, "rows"),
    Variant("small, float32, 64 tokens", lambda: _call_float32(64)),
    Variant("small, float32, 2048 tokens", lambda: _call_float32(2048)),
]
