"""Which experts a token meets, pairs sorted by expert, and the sum of what experts answered, on a CUDA device.

Contract: as ``route``, ``align`` and ``combine``, sorting to the bit; what lies in the last tiles, which no expert
uses, stays unwritten. A program routes one token; places up to CHUNK pairs, knowing how many pairs of each expert the
chunks before hold; adds up some features of one token. Nothing is asked of the host.

Bound: latency, at decode: one launch each. Counting is a second launch for more than CHUNK pairs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.moe import ExpertTiles, Routing, align, combine, max_tiles, route
from quire.kernels.triton.rows import in_rows
from quire.kernels.triton.variant import Variant, blank

CHUNK = 1024
_STEP = 32
"""Pairs that a program places at once."""
_COMBINED = 1024
"""Features that a program adds up."""


@triton.jit
def _route(
    logits, bias, weights, experts, num_groups, group_size, stride, factor, TOP_K: tl.constexpr,
    TOP_GROUPS: tl.constexpr, IS_SOFTMAX: tl.constexpr, IS_RENORMALIZED: tl.constexpr, GROUPS: tl.constexpr,
    SIZE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    place = tl.arange(0, SIZE)
    inside = (group < num_groups)[:, None] & (place < group_size)[None, :]
    number = group[:, None] * group_size + place[None, :]
    wide = tl.load(logits + row * stride + number, inside, other=-float("inf")).to(tl.float32)
    if IS_SOFTMAX:
        grown = tl.exp(wide - tl.max(wide))
        scores = grown / tl.sum(grown)
    else:
        scores = 1.0 / (1.0 + tl.exp(-wide))
    merits = scores
    if bias is not None:
        merits += tl.load(bias + number, inside, other=0.0)
    merits = tl.where(inside, merits, -float("inf"))
    if GROUPS > 1:
        best = tl.max(merits, 1)
        if bias is not None:
            first = tl.argmax(merits, 1)
            best += tl.max(tl.where(place[None, :] == first[:, None], -float("inf"), merits), 1)
        best = tl.where(group < num_groups, best, -float("inf"))
        is_chosen = group < 0
        for _ in tl.static_range(TOP_GROUPS):
            chosen = tl.argmax(best, 0)
            is_chosen = is_chosen | (group == chosen)
            best = tl.where(group == chosen, -float("inf"), best)
        merits = tl.where(is_chosen[:, None], merits, -float("inf"))
    merits = tl.reshape(merits, [GROUPS * SIZE])
    scores = tl.reshape(scores, [GROUPS * SIZE])
    every = tl.arange(0, GROUPS * SIZE)
    slot = tl.arange(0, SLOTS)
    found = tl.zeros([SLOTS], tl.float32)
    numbers = tl.zeros([SLOTS], tl.int32)
    for j in tl.static_range(TOP_K):
        at = tl.argmax(merits, 0)
        found = tl.where(slot == j, tl.sum(tl.where(every == at, scores, 0.0)), found)
        numbers = tl.where(slot == j, at // SIZE * group_size + at % SIZE, numbers)
        merits = tl.where(every == at, -float("inf"), merits)
    if IS_RENORMALIZED:
        found = found / (tl.sum(found) + 1e-20)
    tl.store(weights + row * TOP_K + slot, found * factor, slot < TOP_K)
    tl.store(experts + row * TOP_K + slot, numbers, slot < TOP_K)


@triton.jit
def _counted(experts, num_pairs, first, expert, LENGTH: tl.constexpr, STEP: tl.constexpr):
    """[experts] int32: pairs of each among LENGTH from ``first`` on."""
    count = tl.zeros([expert.shape[0]], tl.int32)
    for i in range(0, LENGTH, STEP):
        pair = first + i + tl.arange(0, STEP)
        chosen = tl.load(experts + pair, pair < num_pairs, other=-1)
        count += tl.sum((chosen[:, None] == expert[None, :]).to(tl.int32), 0)
    return count


@triton.jit
def _count(experts, counts, num_pairs, EXPERTS: tl.constexpr, LENGTH: tl.constexpr, STEP: tl.constexpr):
    chunk = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    tl.store(counts + chunk * EXPERTS + expert, _counted(experts, num_pairs, chunk * LENGTH, expert, LENGTH, STEP))


@triton.jit
def _place(
    experts, counts, pairs, tile_experts, num_pairs, num_experts, num_tiles, num_chunks, TILE: tl.constexpr,
    EXPERTS: tl.constexpr, LENGTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    before = tl.zeros([EXPERTS], tl.int32)
    if counts is None:
        total = _counted(experts, num_pairs, 0, expert, LENGTH, STEP)
    else:
        total = tl.zeros([EXPERTS], tl.int32)
        for other in range(num_chunks):
            count = tl.load(counts + other * EXPERTS + expert)
            total += count
            before += tl.where(other < chunk, count, 0)
    total = tl.where(expert < num_experts, total, 0)
    ends = tl.cumsum((total + TILE - 1) // TILE, 0)
    begins = (ends - (total + TILE - 1) // TILE) * TILE
    position = begins + before
    for i in range(0, LENGTH, STEP):
        pair = chunk * LENGTH + i + tl.arange(0, STEP)
        chosen = tl.load(experts + pair, pair < num_pairs, other=-1)
        is_one = (chosen[:, None] == expert[None, :]).to(tl.int32)
        rank = tl.cumsum(is_one, 0) - is_one
        at = tl.sum(is_one * (position[None, :] + rank), 1)
        tl.store(pairs + at, pair, (chosen >= 0) & (chosen < num_experts))
        position += tl.sum(is_one, 0)
    for first in range(chunk * STEP, num_tiles, num_chunks * STEP):
        tile = first + tl.arange(0, STEP)
        owner = tl.sum((ends[None, :] <= tile[:, None]).to(tl.int32), 1)
        tl.store(tile_experts + tile, tl.where(owner < num_experts, owner, -1), tile < num_tiles)
    if chunk == 0:
        for i in range(0, TILE, 8):
            at = (begins + total + i)[:, None] + tl.arange(0, 8)[None, :]
            tl.store(pairs + at, tl.full([EXPERTS, 8], 0, tl.int32) + num_pairs, at < (ends * TILE)[:, None])


@triton.jit
def _combine(
    y, weights, experts, residual, out, num_experts, size, stride_r, TOP_K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(TOP_K):
        expert = tl.load(experts + row * TOP_K + j)
        is_here = (expert >= 0) & (expert < num_experts)
        answer = tl.load(y + (row * TOP_K + j) * size + column, inside & is_here, other=0.0)
        total += answer.to(tl.float32) * tl.load(weights + row * TOP_K + j)
    if residual is not None:
        total += tl.load(residual + row * stride_r + column, inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, total.to(out.dtype.element_ty), inside)


@route.on("cuda")
def choose_experts(logits: Tensor, routing: Routing, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See route."""
    num_rows, num_experts = logits.shape
    weights = torch.empty((num_rows, routing.top_k), dtype=torch.float32, device=logits.device)
    experts = torch.empty((num_rows, routing.top_k), dtype=torch.int32, device=logits.device)
    if num_rows:
        logits = in_rows(logits)
        size = num_experts // routing.num_groups
        _route[(num_rows,)](
            logits,
            bias,
            weights,
            experts,
            routing.num_groups,
            size,
            logits.stride(0),
            routing.factor,
            TOP_K=routing.top_k,
            TOP_GROUPS=routing.top_groups,
            IS_SOFTMAX=routing.scoring == "softmax",
            IS_RENORMALIZED=routing.is_renormalized,
            GROUPS=triton.next_power_of_2(routing.num_groups),
            SIZE=triton.next_power_of_2(size),
            SLOTS=triton.next_power_of_2(routing.top_k),
            num_warps=1 if num_experts <= 256 else 2,
        )
    return weights, experts


@align.on("cuda")
def place_pairs(experts: Tensor, num_experts: int, size: int) -> ExpertTiles:
    """See align."""
    num_pairs = experts.numel()
    num_tiles = max_tiles(num_pairs, num_experts, size)
    pairs = torch.empty((num_tiles * size,), dtype=torch.int32, device=experts.device)
    tile_experts = torch.empty((num_tiles,), dtype=torch.int32, device=experts.device)
    if num_pairs:
        experts = experts.contiguous()
        num_chunks, width = triton.cdiv(num_pairs, CHUNK), triton.next_power_of_2(num_experts)
        counts = None
        if num_chunks > 1:
            counts = torch.empty((num_chunks, width), dtype=torch.int32, device=experts.device)
            _count[(num_chunks,)](experts, counts, num_pairs, EXPERTS=width, LENGTH=CHUNK, STEP=_STEP, num_warps=8)
        _place[(num_chunks,)](
            experts,
            counts,
            pairs,
            tile_experts,
            num_pairs,
            num_experts,
            num_tiles,
            num_chunks,
            TILE=size,
            EXPERTS=width,
            LENGTH=CHUNK if num_chunks > 1 else triton.next_power_of_2(max(num_pairs, _STEP)),
            STEP=_STEP,
            num_warps=8,
        )
    return ExpertTiles(pairs, tile_experts)


@combine.on("cuda")
def add_answers(
    y: Tensor, weights: Tensor, experts: Tensor, num_experts: int, residual: Tensor | None = None
) -> Tensor:
    """See combine."""
    num_rows, top_k = weights.shape
    size = y.shape[1]
    out = torch.empty((num_rows, size), dtype=y.dtype, device=y.device)
    if num_rows:
        residual = None if residual is None else in_rows(residual)
        _combine[(num_rows, triton.cdiv(size, _COMBINED))](
            y,
            weights.contiguous(),
            experts.contiguous(),
            residual,
            out,
            num_experts,
            size,
            0 if residual is None else residual.stride(0),
            TOP_K=top_k,
            BLOCK=_COMBINED,
            num_warps=4,
        )
    return out


def _chosen(num_rows: int, top_k: int) -> Tensor:
    return blank(num_rows, top_k, dtype=torch.int32)


VARIANTS = [
    Variant("Qwen3-30B-A3B router", lambda: choose_experts(blank(64, 128), Routing(8))),
    Variant(
        "DeepSeek-V3 router",
        lambda: choose_experts(
            blank(64, 256), Routing(8, "sigmoid", num_groups=8, top_groups=4, factor=2.5), blank(256).float()
        ),
    ),
    Variant("8 tokens, 8 of 128", lambda: place_pairs(_chosen(8, 8), 128, 8)),
    Variant("4096 tokens, 8 of 128", lambda: place_pairs(_chosen(4096, 8), 128, 128)),
    Variant(
        "64 tokens, 8 experts, 2048",
        lambda: add_answers(blank(512, 2048), blank(64, 8).float(), _chosen(64, 8), 128, blank(64, 2048)),
        {"_combine": {"LDG.128": 8}},
    ),
]
