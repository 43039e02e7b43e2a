"""Log probabilities, ranks and allow-masks on a CUDA device.

Contract: see Sampling.score_tokens and keep_allowed. The sum of exponentials is taken in float32 over stretches of a
fixed length, joined in one order, so that a row's log probabilities are the same bits in any company; they are rounded
to float32 before they are compared. The list of the likeliest is torch's selection among keys of value and id.

Bound: memory, three reads of the logits; a list costs one write of 8 bytes a logit more, and torch's selection.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.device_sampling import DeviceScores
from quire.kernels.triton.tuning import ELEMENTS, STRETCH
from quire.kernels.triton.variant import Variant, blank
from quire.kernels.triton.vocabulary import best_value, stretch_bests


@triton.jit
def _stretch_sum(
    x, rows, bests, sums, size, stride, num_stretches, LENGTH: tl.constexpr, BLOCK: tl.constexpr,
    STRETCHES: tl.constexpr,
):  # fmt: skip
    place, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + place).to(tl.int64)
    best, _ = best_value(bests, row, num_stretches, STRETCHES)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, LENGTH, BLOCK):
        ids = stretch * LENGTH + start + tl.arange(0, BLOCK)
        total += tl.exp(tl.load(x + row * stride + ids, ids < size, other=float("-inf")) - best)
    tl.store(sums + place * num_stretches + stretch, tl.sum(total, 0))


@triton.jit
def _logprob(x, best, sums, place, num_stretches, STRETCHES: tl.constexpr):
    lane = tl.arange(0, STRETCHES)
    total = tl.sum(tl.load(sums + place * num_stretches + lane, lane < num_stretches, other=0.0), 0)
    return tl.minimum((x - best) - tl.log(total), 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _stretch_rank(
    x, rows, tokens, bests, sums, own, likelier, keys, size, stride, num_stretches, LENGTH: tl.constexpr,
    BLOCK: tl.constexpr, STRETCHES: tl.constexpr,
):  # fmt: skip
    """The token's log probability [n], how many in each stretch are likelier [n, S]; and keys [n, V], if asked for."""
    place, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + place).to(tl.int64)
    best, _ = best_value(bests, row, num_stretches, STRETCHES)
    start_of_row = x + row * stride
    mine = tl.load(start_of_row + tl.maximum(tl.load(tokens + place), 0))
    mine = _logprob(mine, best, sums, place, num_stretches, STRETCHES)
    count = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, LENGTH, BLOCK):
        ids = stretch * LENGTH + start + tl.arange(0, BLOCK)
        value = tl.load(start_of_row + ids, ids < size, other=float("-inf"))
        logprob = _logprob(value, best, sums, place, num_stretches, STRETCHES)
        count += (logprob > mine).to(tl.int32)
        if keys is not None:
            distance = (0.0 - logprob).to(tl.int32, bitcast=True).to(tl.int64)
            tl.store(keys + place * size + ids, (distance << 32) | ids.to(tl.int64), ids < size)
    tl.store(likelier + place * num_stretches + stretch, tl.sum(count, 0))
    if stretch == 0:
        tl.store(own + place, mine)


@triton.jit
def _keep_allowed(x, rows, masks, size, stride, num_words, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < size
    word = tl.load(masks + place * num_words + ids // 32, inside, other=-1)
    is_forbidden = ((word >> (ids % 32)) & 1) == 0
    value = tl.full((BLOCK,), float("-inf"), tl.float32)
    tl.store(x + row * stride + ids, value, inside & is_forbidden)


def score_rows(logits: Tensor, rows: Tensor, tokens: Tensor, k: int) -> DeviceScores:
    """See Sampling.score_tokens; ``rows`` and ``tokens`` [n] on the device."""
    num_rows, size = len(rows), logits.shape[1]
    assert logits.stride(1) == 1
    device = logits.device
    own = torch.empty((num_rows, 1), dtype=torch.float32, device=device)
    ids = tokens.to(torch.int32)[:, None]
    if not num_rows:
        return DeviceScores(
            ids.expand(0, 1 + k), own.expand(0, 1 + k), torch.empty(0, dtype=torch.int64, device=device)
        )
    bests = stretch_bests(logits)
    num_stretches = bests.shape[1]
    grid = (num_rows, num_stretches)
    sums = torch.empty(grid, dtype=torch.float32, device=device)
    likelier = torch.empty(grid, dtype=torch.int32, device=device)
    keys = torch.empty((num_rows, size), dtype=torch.int64, device=device) if k else None
    shape = (size, logits.stride(0), num_stretches)
    block, num_warps = ELEMENTS
    tile = dict(LENGTH=STRETCH, BLOCK=block, STRETCHES=triton.next_power_of_2(num_stretches), num_warps=num_warps)
    _stretch_sum[grid](logits, rows, bests, sums, *shape, **tile)
    _stretch_rank[grid](logits, rows, tokens, bests, sums, own, likelier, keys, *shape, **tile)
    ranks = likelier.sum(1) + 1
    if keys is None:
        return DeviceScores(ids, own, ranks)
    listed = keys.topk(k, dim=1, largest=False, sorted=True).values
    logprobs = -(listed >> 32).to(torch.int32).view(torch.float32)
    listed_ids = (listed & 0xFFFFFFFF).to(torch.int32)
    return DeviceScores(torch.cat((ids, listed_ids), 1), torch.cat((own, logprobs), 1), ranks)


def keep_allowed(logits: Tensor, rows: Tensor, masks: Tensor) -> None:
    """See Sampling.keep_allowed; ``rows`` [n] and contiguous ``masks`` [n, W] int32 on the device."""
    size, block = logits.shape[1], ELEMENTS.block
    assert logits.stride(1) == 1 and masks.is_contiguous() and masks.shape[1] * 32 >= size
    if len(rows):
        grid = (len(rows), triton.cdiv(size, block))
        _keep_allowed[grid](
            logits, rows, masks, size, logits.stride(0), masks.shape[1], BLOCK=block, num_warps=ELEMENTS.num_warps
        )


def _variant(k: int) -> Variant:
    def call() -> DeviceScores:
        ids = blank(64, dtype=torch.int64)
        return score_rows(blank(64, 151936, dtype=torch.float32), ids, ids, k)

    return Variant(f"{k} likeliest", call, {"_stretch_sum": {"LDG.128": 2}, "_stretch_rank": {"LDG.128": 2}})


def _masked() -> None:
    masks = blank(64, 4748, dtype=torch.int32)
    keep_allowed(blank(64, 151936, dtype=torch.float32), blank(64, dtype=torch.int64), masks)


VARIANTS = [_variant(0), _variant(20), Variant("allow-masks", _masked)]
