"""A mixture of experts: which of them a token meets, and what they make of it.

A *pair* is a token and one of its k experts, numbered t * k + j. Law, batch invariance: a pair's products depend on
its row and its expert alone, and a token adds up its experts' answers in the order in which it chose them.

An expert that has no place here (its number is not in 0..E-1) adds nothing: it lies on another rank, or the row is
there to fill a batch up.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, dequantize_fp8, dequantize_fp8_weight, quantize_fp8
from quire.kernels.ops.linear import Activation, gate, linear
from quire.kernels.ops.registry import op

Scoring = Literal["softmax", "sigmoid"]


class Routing(NamedTuple):
    """How a router's logits become experts and weights."""

    top_k: int
    scoring: Scoring = "softmax"
    """Over all experts, before the best are chosen."""
    is_renormalized: bool = True
    """The weights of the chosen are divided by their sum, so that they add up to one."""
    num_groups: int = 1
    """Experts stand in so many groups of equal size ..."""
    top_groups: int = 1
    """... and only those of the best so many may be chosen."""
    factor: float = 1.0
    """Of all weights, at the end."""


@op
def route(logits: Tensor, routing: Routing, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The experts of each token: logits [T, E] of any float dtype -> weights [T, k] float32, experts [T, k] int32.

    Experts come in falling order of their scores, the lowest number first among equals; all in float32. ``bias`` [E]
    float32 is added to scores when experts and groups are chosen, and not to weights. A group is as good as its best
    expert or, with a bias, as its two best together. Source: DeepSeek-AI 2024 (DeepSeek-V2, 2.2.2, and V3, 2.1.2).
    """
    wide = logits.float()
    if routing.scoring == "softmax":
        grown = (wide - wide.amax(-1, keepdim=True)).exp()
        scores = grown / grown.sum(-1, keepdim=True)
    else:
        scores = 1.0 / (1.0 + wide.neg().exp())
    merits = scores if bias is None else scores + bias.float()
    if routing.num_groups > 1:
        groups = merits.view(len(merits), routing.num_groups, merits.shape[1] // routing.num_groups)
        best = groups.amax(-1) if bias is None else groups.topk(2, -1).values.sum(-1)
        chosen = torch.zeros_like(best, dtype=torch.bool).scatter_(1, _best(best, routing.top_groups), True)
        merits = groups.masked_fill(~chosen[..., None], -torch.inf).flatten(1)
    experts = _best(merits, routing.top_k)
    weights = scores.gather(1, experts)
    if routing.is_renormalized:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * routing.factor, experts.int()


class ExpertTiles(NamedTuple):
    """Pairs sorted by expert, in tiles of one expert each."""

    pairs: Tensor
    """[tiles * size] int32: within an expert rising, filled up with T * k; behind the last tile in use, anything."""
    experts: Tensor
    """[tiles] int32: a tile's expert, -1 where the tile is not in use. Those in use come first."""


@op
def align(experts: Tensor, num_experts: int, size: int) -> ExpertTiles:
    """Sort the pairs of experts [T, k] int32 into tiles of ``size`` pairs, as many as the sizes alone may need."""
    flat = experts.flatten().long()
    flat = flat.where((flat >= 0) & (flat < num_experts), num_experts)  # these come last, behind all tiles
    num_pairs, num_tiles = len(flat), max_tiles(len(flat), num_experts, size)
    counts = torch.zeros(num_experts + 1, dtype=torch.long, device=flat.device).index_add_(
        0, flat, torch.ones_like(flat)
    )
    tiles = -(-counts[:-1] // size)
    ends = tiles.cumsum(0)
    numbers = torch.arange(num_tiles, device=flat.device)
    tile_experts = torch.searchsorted(ends, numbers, right=True)
    tile_experts = tile_experts.where(numbers < ends[-1], -1)
    in_order, order = flat.sort(stable=True)
    begins = torch.cat(((ends - tiles) * size, ends.new_full((1,), num_tiles * size)))
    ranks = torch.arange(num_pairs, device=flat.device) - (counts.cumsum(0) - counts)[in_order]
    pairs = flat.new_full((num_tiles * size + num_pairs,), num_pairs)
    pairs[begins[in_order] + ranks] = order
    return ExpertTiles(pairs[: num_tiles * size].int(), tile_experts.int())


def max_tiles(num_pairs: int, num_experts: int, size: int) -> int:
    """The most tiles that pairs can take, however they are shared out."""
    met = min(num_pairs, num_experts)
    return met + (num_pairs - met) // size


@op
def grouped_linear(x: Tensor, weight: Tensor, experts: Tensor, scale: Tensor | None = None) -> Tensor:
    """Each row by the matrices of its experts: x [R, K], weight [E, N, K], experts [R, k] int32 -> [R * k, N].

    Row r * k + j is x[r] by weight[experts[r, j]], summed in float32, rounded once to x's dtype; zeros where that
    expert is not here. Without ``scale`` weights are of x's dtype. With it they are e4m3, ``scale`` being float32 of
    rows [E, N] or of blocks [E, ceil(N / 128), ceil(K / 128)], and activations are rounded as in ``fp8_linear``. With
    experts [R * k, 1], a second product continues where the first ended. Weights are contiguous; R may be 0; rows of
    x may be strided. K is a multiple of 16. Batch invariant.
    """
    num_experts, num_out, _ = weight.shape
    rows = x if scale is None else dequantize_fp8(*quantize_fp8.reference(x, BLOCK if scale.dim() == 3 else None))
    y = x.new_zeros((experts.numel(), num_out))
    flat = experts.flatten()
    for expert in range(num_experts):
        (pairs,) = torch.where(flat == expert)
        if len(pairs):
            matrix = weight[expert] if scale is None else dequantize_fp8_weight(weight[expert], scale[expert])
            y[pairs] = linear(rows[pairs // experts.shape[1]], matrix).to(x.dtype)
    return y


@op
def combine(y: Tensor, weights: Tensor, experts: Tensor, num_experts: int, residual: Tensor | None = None) -> Tensor:
    """Add up what a token's experts answered: y [T * k, N], weights [T, k] float32, experts [T, k] -> [T, N].

    In float32, one after the other from j = 0, then the residual [T, N] if given, rounded once to y's dtype. Pairs of
    experts outside 0..num_experts-1 count for nothing, whatever stands in y.
    """
    is_here = (experts >= 0) & (experts < num_experts)
    answers = y.view(*weights.shape, y.shape[1]).float().masked_fill(~is_here[..., None], 0.0)
    total = torch.zeros_like(answers[:, 0])
    for j in range(weights.shape[1]):
        total = total + answers[:, j] * weights[:, j, None]
    return (total if residual is None else total + residual.float()).to(y.dtype)


@op
def experts_mlp(
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
    """The experts' feed-forward blocks and their weighted sum: x [T, K] -> [T, K] in x's dtype.

    gate_up [E, 2F, K], gates first, and down [E, K, F], with scales as for ``grouped_linear``, both or neither;
    weights [T, k] float32 and experts [T, k] int32 from ``route``; residual [T, K] is added at the end (a shared
    expert's answer, or the layer's input). Each step is rounded to x's dtype, or less often. T may be 0. Batch
    invariant.
    """
    num_experts = gate_up.shape[0]
    hidden = gate(grouped_linear.reference(x, gate_up, experts, gate_up_scale), activation)
    y = grouped_linear.reference(hidden, down, experts.reshape(-1, 1), down_scale)
    return combine.reference(y, weights, experts, num_experts, residual)


def _best(merits: Tensor, count: int) -> Tensor:
    """[T, n] -> [T, count] int64: the greatest in falling order, the lowest index first among equals."""
    return merits.sort(dim=-1, descending=True, stable=True)[1][:, :count]
