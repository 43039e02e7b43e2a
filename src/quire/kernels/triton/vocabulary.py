"""Logits on a CUDA device, and the greatest of each row.

Contract: the product is cuBLAS's, summed in float32 and kept so: logits of 16-bit models are not rounded to 16 bits,
and so are seldom equal. A row's greatest is found in two stages, over stretches of a fixed length; value and id are one
integer, so that the answer is the same whatever order they are compared in.

Bound: memory, one read of the table, and one of the logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.vocabulary import likeliest_of, logits
from quire.kernels.triton.tuning import ELEMENTS, STRETCH
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def ranked_key(x, ids):
    """One int64 for value and id, of which the greatest is the first of the greatest values; NaN beats all values.

    x float32, ids int32 >= 0. Its upper half orders as floats do, -0 and 0 alike.
    """
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ordered = tl.where(x == x, ordered, 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - ids).to(tl.int64)


@triton.jit
def best_token(bests, row, num_stretches, STRETCHES: tl.constexpr):
    """The token of a row's greatest value."""
    lane = tl.arange(0, STRETCHES)
    key = tl.max(tl.load(bests + row * num_stretches + lane, lane < num_stretches, other=-(2**63)), 0)
    return 0x7FFFFFFF - (key & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def best_value(bests, row, num_stretches, STRETCHES: tl.constexpr):
    """The greatest value of a row, by its stretches' keys [R, S], and whether it is finite."""
    lane = tl.arange(0, STRETCHES)
    key = tl.max(tl.load(bests + row * num_stretches + lane, lane < num_stretches, other=-(2**63)), 0)
    ordered = (key >> 32).to(tl.int32)
    bits = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    # Finite is what lies between the keys of -inf and inf.
    is_sound = (ordered < 0x7F800000) & (ordered > (-0x800000 ^ 0x7FFFFFFF))
    return bits.to(tl.float32, bitcast=True), is_sound


@triton.jit
def _cap(x, size, softcap, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    twice = tl.load(x + place, inside, other=0.0) * (2.0 / softcap)
    # tanh y = 1 - 2 / (exp 2y + 1)
    tl.store(x + place, softcap * (1.0 - 2.0 / (tl.exp(twice) + 1.0)), inside)


@triton.jit
def _stretch_best(x, best, size, stride, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    row, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    found = tl.full((BLOCK,), -(2**63), tl.int64)
    for start in range(0, LENGTH, BLOCK):
        ids = stretch * LENGTH + start + lane
        value = tl.load(x + row * stride + ids, ids < size, other=float("-inf"))
        found = tl.maximum(found, tl.where(ids < size, ranked_key(value, ids), -(2**63)))
    tl.store(best + row * tl.num_programs(1) + stretch, tl.max(found, 0))


@triton.jit
def _row_best(best, out, num_stretches, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    _, is_sound = best_value(best, row, num_stretches, BLOCK)
    tl.store(out + row, tl.where(is_sound, best_token(best, row, num_stretches, BLOCK), -1))


@likeliest_of.on("cuda")
def row_best(y: Tensor) -> Tensor:
    """See likeliest_of."""
    num_rows = len(y)
    assert y.stride(1) == 1
    out = torch.empty(num_rows, dtype=torch.int32, device=y.device)
    if num_rows:
        best = stretch_bests(y)
        width = triton.next_power_of_2(best.shape[1])
        _row_best[(num_rows,)](best, out, best.shape[1], BLOCK=width, num_warps=1)
    return out


def stretch_bests(y: Tensor) -> Tensor:
    """The best key of each stretch of each row: [R, V] float32, R > 0 -> [R, S] int64."""
    num_rows, size = y.shape
    num_stretches = triton.cdiv(size, STRETCH)
    best = torch.empty((num_rows, num_stretches), dtype=torch.int64, device=y.device)
    block, num_warps = ELEMENTS
    _stretch_best[(num_rows, num_stretches)](
        y, best, size, y.stride(0), LENGTH=STRETCH, BLOCK=block, num_warps=num_warps
    )
    return best


@logits.on("cuda")
def vocabulary_logits(x: Tensor, table: Tensor, softcap: float | None) -> Tensor:
    """See logits."""
    y = _product(x, table)
    return y if softcap is None else cap(y, softcap)


def cap(y: Tensor, softcap: float) -> Tensor:
    """softcap * tanh(y / softcap) of a contiguous y, in place."""
    assert y.is_contiguous()
    if y.numel():
        block, num_warps = ELEMENTS
        _cap[(triton.cdiv(y.numel(), block),)](y, y.numel(), softcap, BLOCK=block, num_warps=num_warps)
    return y


def _product(x: Tensor, table: Tensor) -> Tensor:
    """x table^T in float32, of 16-bit factors without a copy of the table; torch has that for CUDA only."""
    if x.dtype != torch.float32 and x.is_cuda:
        return torch.mm(x, table.t(), out_dtype=torch.float32)
    return torch.mm(x.float(), table.float().t())


def _logits() -> Tensor:
    return blank(64, 151936, dtype=torch.float32)


VARIANTS = [
    Variant("softcap", lambda: cap(_logits(), 30.0), {"_cap": {"LDG.128": 2, "STG.128": 2}}),
    Variant("likeliest", lambda: row_best(_logits()), {"_stretch_best": {"LDG.128": 2}}),
]
