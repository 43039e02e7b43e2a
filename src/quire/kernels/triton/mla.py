"""Attention over compressed keys and values by Triton.

Each token is attended by itself, with the context that it sees: up to 32 of its heads are the rows of HMMA. (HGMMA has
64, and there is no room for two sums of 64 x 512.) A latent is read once, for its score and for the sum. Contexts are
cut into segments and shared out as in attention.py, whose counting and adding serve here too.

Law: a token's bits depend on its own sequence, whatever chunk it came in: one kernel computes all.

Bound: memory, each latent read once, for single tokens of up to 32 heads in blocks of 64 (of up to 16 in smaller ones).
More heads read it once for each tile of heads, and from 64 on products bind. Tokens of one chunk read the same latents
again, from the second-level cache: for long prompts it is better to expand latents to keys and values.
Source: DeepSeek-AI 2024 (DeepSeek-V2, absorbed products).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.mla import latent_attention
from quire.kernels.triton.attention import LOG2E, SEGMENT_TOKENS, Scratch, Tile, programs_of
from quire.kernels.triton.attention_kernels import _LOWEST, _add_segments, _count_units, _look_up, _places, _shares
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _fold_latents(
    q, q_turned, cache, table, sums, peaks, context, first_tile, last_tile, keeps, stride_block, scale,
    R: tl.constexpr, P: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SEGMENT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """As _fold_tokens, of q [BLOCK_M, R] and q_turned [BLOCK_M, P] with latents, which are keys and values."""
    r, t, n, rows = tl.arange(0, R), tl.arange(0, P), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_M, R], tl.float32)
    total_weight = tl.zeros([BLOCK_M], tl.float32)
    total_peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    acc, weight, peak = total, total_weight, total_peak
    block = _look_up(table, first_tile, context, PAGE, BLOCK_N)
    for tile in range(first_tile, last_tile):
        keys = tile * BLOCK_N + n
        place = _places(block, stride_block, 0, tile, R + P, PAGE, BLOCK_N)[:, None]
        block = _look_up(table, tile + 1, context, PAGE, BLOCK_N)
        latents = tl.load(cache + place + r[None, :])
        turned = tl.load(cache + place + R + t[None, :])
        s = tl.dot(q, tl.trans(latents), input_precision="ieee")
        s = tl.dot(q_turned, tl.trans(turned), s, input_precision="ieee")
        s = tl.where(keys[None, :] < context, s, float("-inf"))
        grown = tl.maximum(peak, tl.ceil(tl.max(s, 1) * scale))
        p = tl.exp2(s * scale - grown[:, None])
        shrink = tl.exp2(peak - grown)
        weight = weight * shrink + tl.sum(p, 1)
        peak = grown
        acc = tl.dot(p.to(q.dtype), latents, acc * shrink[:, None], input_precision="ieee")
        if ((tile + 1) * BLOCK_N % SEGMENT == 0) | (tile + 1 == last_tile):
            if keeps:
                grown = tl.maximum(total_peak, peak)
                old, new = tl.exp2(total_peak - grown), tl.exp2(peak - grown)
                total = total * old[:, None] + acc * new[:, None]
                total_weight = total_weight * old + weight * new
                total_peak = grown
            else:
                tl.store(sums + rows[:, None] * R + r[None, :], acc, mask=rows[:, None] < ROWS)
                tl.store(peaks + rows, peak, mask=rows < ROWS)
                tl.store(peaks + ROWS + rows, weight, mask=rows < ROWS)
                sums += ROWS * R
                peaks += 2 * ROWS
            acc, weight = tl.zeros([BLOCK_M, R], tl.float32), tl.zeros([BLOCK_M], tl.float32)
            peak = tl.full([BLOCK_M], _LOWEST, tl.float32)
    return total, total_weight, total_peak


@triton.jit(do_not_specialize=["num_tokens", "max_segments", "stride_table"])
def _attend_latents(
    q, cache, block_tables, seqs, contexts, unit_starts, out, sums, peaks,
    stride_q, stride_block, stride_table, num_tokens, max_segments, scale,
    HEADS: tl.constexpr, TILES: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SEGMENT: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One program's share of all units: segments of tiles of ROWS heads of tokens. See _attend_tokens."""
    units = tl.load(unit_starts + num_tokens) * TILES
    share, is_cut = _shares(units, max_segments, PLACES)
    first_place = tl.program_id(0) * (PLACES + 1)
    begin = tl.program_id(0) * share
    unit, end = begin, tl.minimum(begin + share, units)
    rows, r, t = tl.arange(0, BLOCK_M), tl.arange(0, R), tl.arange(0, P)
    while unit < end:
        token = tl.full([], 0, tl.int32)
        for first in range(0, num_tokens, BLOCK_T):
            i = first + tl.arange(0, BLOCK_T)
            ends = tl.load(unit_starts + 1 + i, mask=i < num_tokens, other=2147483647)
            token += tl.sum((ends <= unit // TILES).to(tl.int32), 0)
        base = tl.load(unit_starts + token)
        segments = tl.load(unit_starts + token + 1) - base
        tile = (unit - base * TILES) // segments
        first = unit - base * TILES - tile * segments
        item_end = unit - first + segments
        stop = item_end
        if is_cut:
            stop = tl.minimum(item_end, end)
        if is_cut | (first == 0):
            context = tl.load(contexts + token)
            is_row = rows < tl.minimum(ROWS, HEADS - tile * ROWS)
            at = token.to(tl.int64) * stride_q + (tile * ROWS + rows)[:, None] * (R + P)
            q_latent = tl.load(q + at + r[None, :], mask=is_row[:, None], other=0.0)
            q_turned = tl.load(q + at + R + t[None, :], mask=is_row[:, None], other=0.0)
            last_tile = tl.minimum((first + stop - unit) * (SEGMENT // BLOCK_N), tl.cdiv(context, BLOCK_N))
            place = (first_place + unit - begin).to(tl.int64)
            total, weight, peak = _fold_latents(
                q_latent, q_turned, cache, block_tables + tl.load(seqs + token).to(tl.int64) * stride_table,
                sums + place * (ROWS * R), peaks + place * (2 * ROWS),
                context, first * (SEGMENT // BLOCK_N), last_tile, first == 0, stride_block, scale,
                R, P, PAGE, BLOCK_M, BLOCK_N, SEGMENT, ROWS,
            )  # fmt: skip
            if first == 0:
                if stop == item_end:
                    to = token.to(tl.int64) * (HEADS * R) + (tile * ROWS + rows)[:, None] * R + r[None, :]
                    result = (total / weight[:, None]).to(out.dtype.element_ty)
                    tl.store(out + to, result, mask=is_row[:, None])
                else:
                    last = (first_place + PLACES).to(tl.int64)
                    to = last * (ROWS * R) + rows[:, None] * R + r[None, :]
                    tl.store(sums + to, total, mask=rows[:, None] < ROWS)
                    tl.store(peaks + last * (2 * ROWS) + rows, peak, mask=rows < ROWS)
                    tl.store(peaks + last * (2 * ROWS) + ROWS + rows, weight, mask=rows < ROWS)
        unit = stop


@triton.jit
def _spread(query_starts, context_lens, seqs, contexts, BLOCK: tl.constexpr):
    """Of each token of one sequence: the sequence, and how much it sees."""
    seq = tl.program_id(0)
    start, end = tl.load(query_starts + seq), tl.load(query_starts + seq + 1)
    context = tl.load(context_lens + seq)
    for first in range(start, end, BLOCK):
        i = first + tl.arange(0, BLOCK)
        tl.store(seqs + i, tl.zeros([BLOCK], tl.int32) + seq, mask=i < end)
        tl.store(contexts + i, context - end + 1 + i, mask=i < end)


def latent_tile(num_heads: int, block_size: int) -> tuple[int, Tile]:
    """Heads of one program, and how it is compiled. Where a block has whole tiles, addresses take few registers."""
    is_whole = block_size % 64 == 0
    heads = max(heads for heads in range(1, 33 if is_whole else 17) if num_heads % heads == 0)
    rows = max(16, triton.next_power_of_2(heads))
    return heads, Tile(rows, 64, 8, 3 if heads <= 16 else 2) if is_whole else Tile(rows, 32, 8, 3)


class LatentWork:
    """The tokens of a step, and how their contexts are shared out: once for all layers. Nothing is read on the host."""

    def __init__(self, query_starts: Tensor, context_lens: Tensor, *, num_tokens: int, max_context: int) -> None:
        """query_starts [S + 1] and context_lens [S] int32, on the device; max_context bounds them."""
        device = query_starts.device
        self.max_context, self.num_tokens = max_context, num_tokens
        self.starts = torch.arange(num_tokens + 1, dtype=torch.int32, device=device)
        self.seqs, self.contexts, self.units = (torch.zeros_like(self.starts) for _ in range(3))
        _spread[(len(context_lens),)](query_starts, context_lens, self.seqs, self.contexts, BLOCK=128, num_warps=1)
        _count_units[(1,)](
            self.starts, self.contexts, self.units, num_tokens,
            TOKENS=1, SEGMENT=SEGMENT_TOKENS, WINDOW=0, BLOCK_S=max(16, triton.next_power_of_2(num_tokens)),
            num_warps=4 if num_tokens <= 2048 else 16,
        )  # fmt: skip


def latent_scratch(
    device: torch.device, num_programs: int, *, num_heads: int, block_size: int, num_latents: int, max_context: int
) -> Scratch:
    """Where attend_latents leaves partial sums."""
    rows, _ = latent_tile(num_heads, block_size)
    return Scratch.make(device, num_programs, rows=rows, head_dim=num_latents, max_context=max_context)


def attend_latents(
    q: Tensor, cache: Tensor, block_tables: Tensor, work: LatentWork, scratch: Scratch, out: Tensor, *, scale: float
) -> None:
    """Fill ``out`` [T, H, R], contiguous; tensors as latent_attention has them, all on the device.

    A token of no context gets zeros. R and P are powers of two; rows of q may be strided.
    """
    num_tokens, num_heads, width = q.shape
    num_latents, block_size = out.shape[2], cache.shape[1]
    rows, tile = latent_tile(num_heads, block_size)
    tiles = triton.cdiv(num_heads, rows)
    assert num_heads % rows == 0 and rows == scratch.rows and num_tokens == work.num_tokens
    assert q.stride()[1:] == (width, 1) and cache.stride()[1:] == (width, 1) and out.is_contiguous()
    max_segments = -(-work.max_context // SEGMENT_TOKENS) + 1
    _attend_latents[(scratch.num_programs,)](
        q, cache, block_tables, work.seqs, work.contexts, work.units, out, scratch.sums, scratch.peaks,
        q.stride(0), cache.stride(0), block_tables.stride(0), num_tokens, max_segments, scale * LOG2E,
        HEADS=num_heads, TILES=tiles, R=num_latents, P=width - num_latents, PAGE=block_size,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, SEGMENT=SEGMENT_TOKENS, ROWS=rows, PLACES=scratch.places,
        BLOCK_T=min(1024, max(16, triton.next_power_of_2(num_tokens))),
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    _add_segments[(scratch.num_programs, rows, triton.cdiv(num_latents, 128))](
        work.starts, work.units, out, scratch.sums, scratch.peaks, out.stride(0), num_tokens, max_segments, 1.0,
        KV_HEADS=tiles, GROUP=rows, D=num_latents, ROWS=rows, PLACES=scratch.places, TOKENS=1,
        BLOCK_D=128, BLOCK_P=64, BLOCK_S=max(16, triton.next_power_of_2(num_tokens)), UNROLL=8, num_warps=1,
    )  # fmt: skip


@latent_attention.on("cuda")
def attend(
    q: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    num_latents: int,
    scale: float,
) -> Tensor:
    """See latent_attention. Waits for context_lens, where they lie on the device; attend_latents does not."""
    num_tokens, num_heads, _ = q.shape
    context = int(context_lens.max())
    work = LatentWork(query_starts.to(q.device), context_lens.to(q.device), num_tokens=num_tokens, max_context=context)
    scratch = latent_scratch(
        q.device,
        programs_of(q.device) // 2 or 1,
        num_heads=num_heads,
        block_size=cache.shape[1],
        num_latents=num_latents,
        max_context=context,
    )
    out = torch.empty((num_tokens, num_heads, num_latents), dtype=q.dtype, device=q.device)
    attend_latents(q, cache, block_tables, work, scratch, out, scale=scale)
    return out


def _step(num_heads: int, num_tokens: int, block_size: int) -> None:
    starts, lens, tables = (blank(*size, dtype=torch.int32) for size in ((65,), (64,), (64, 128)))
    work = LatentWork(starts, lens, num_tokens=num_tokens, max_context=8192)
    scratch = latent_scratch(
        torch.device("meta"), 132, num_heads=num_heads, block_size=block_size, num_latents=512, max_context=8192
    )
    q, out = blank(num_tokens, num_heads, 576), blank(num_tokens, num_heads, 512)
    attend_latents(q, blank(4096, block_size, 576), tables, work, scratch, out, scale=0.1)


VARIANTS = [
    Variant(name, call, {"_attend_latents": {"HMMA": products, "LDGSTS.128": loads}})
    for name, call, products, loads in (
        ("DeepSeek V2 Lite, or V3 in 8 parts", lambda: _step(16, 64, 64), 64, 36),
        ("DeepSeek V3, 1024 tokens", lambda: _step(128, 1024, 64), 64, 36),
        ("GLM 4.7 Flash, pages of 16", lambda: _step(20, 64, 16), 48, 27),
    )
]
