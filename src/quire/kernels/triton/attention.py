"""Paged attention by Triton: single tokens split over their context, and chunks of prompts in tiles of queries.

Both kernels compute the same sum. Keys come in tiles at absolute positions, tiles are summed into segments of
SEGMENT_TOKENS positions, also absolute, and segments are added one after another. Maxima are rounded up to whole
numbers (in powers of two), so that every rescaling is exact and only the order of sums counts; the sum of weights is a
product with ones, so that it has the order of a product. All query heads of a KV head, for as many tokens as fit, are
the rows of one tile; masked keys add exact zeros.

Law: a row's bits depend on its own sequence: not on who computed which segment, the chunk it came in, or its
neighbours. Between the two kernels this needs products that do not depend on the shape of a tile. Both are HGMMA of 16
terms at a time in the same order: chunks have queries as its 64 rows, single tokens have keys and features there and
their few queries as the narrow side. That an H200 rounds both alike is likely and unmeasured.

Single tokens: the segments of all sequences and KV heads lie on one line, cut into equal shares for as many programs as
the device holds. A program adds up what it has from a first segment on, and writes the result where it has all of them;
what others must complete it leaves as partial sums, which a second kernel adds in order. So a lone sequence spreads
over the device, and of 256 long ones about one segment in twenty leaves a partial sum, of a hundredth of the bytes.
Nothing is read on the host: shares are counted on the device, so all of it can sit in a captured graph.

Bound: single tokens by memory, each key and value read once; chunks by products and exponentials.
Source: Dao et al. 2022 and 2023 (tiles, split contexts); Osama et al. 2023 (Stream-K, equal shares).
"""

from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from quire.kernels.ops.attention import paged_attention
from quire.kernels.triton.attention_kernels import _add_segments, _attend_chunks, _attend_tokens, _count_units
from quire.kernels.triton.variant import Variant, blank

LOG2E = 1.4426950408889634

SEGMENT_TOKENS = 256
"""Positions whose sum is one addend. A lone context of 1k gives 4 programs for each KV head; a partial sum of 4 query
heads has 1.6 % of the bytes of the keys and values that it stands for."""


class Tile(NamedTuple):
    """How one kernel is cut and compiled for one head size."""

    block_m: int
    """Rows of queries."""
    block_n: int
    """Keys of one product. How many is no part of a sum's order: products add 16 terms at a time."""
    num_warps: int
    num_stages: int


BYTES_OF_SUMS = 192 * 2**20
"""Most memory for partial sums; beyond it long contexts of many sequences are shared out whole."""


MOST_TOKEN_ROWS = 64
"""Query heads of a KV head, times tokens of a sequence, that attend_tokens takes."""


def token_tile(rows: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Tile:
    """Of single tokens, or of few."""
    rows = max(16, triton.next_power_of_2(rows))
    if dtype.itemsize > 2:
        return Tile(rows, 32, 4, 1)
    return Tile(rows, 64, 4, 3) if kv_dtype.itemsize > 1 else Tile(rows, 64, 8, 4)


def chunk_tile(group: int, head_dim: int, dtype: torch.dtype) -> Tile:
    """Of chunks. Two sums of 128 x 256 have no place in registers; float32 is for checks."""
    tile = Tile(128, 64, 8, 3) if head_dim <= 128 else Tile(64, 32, 8, 3)
    if dtype.itemsize > 2:
        tile = Tile(32, 32, 8, 1)
    return tile._replace(block_m=max(tile.block_m, triton.next_power_of_2(group)))


class Scratch(NamedTuple):
    """Where programs leave partial sums. May serve any number of calls, one after another."""

    sums: Tensor
    """[programs * (places + 1), rows, D] float32."""
    peaks: Tensor
    """[programs * (places + 1), 2, rows] float32: maxima, and weights."""
    num_programs: int
    places: int
    rows: int

    @staticmethod
    def make(device: torch.device, num_programs: int, *, rows: int, head_dim: int, max_context: int) -> "Scratch":
        """For contexts up to max_context and ``rows``, query heads of a KV head times tokens of a sequence."""
        most = max(1, BYTES_OF_SUMS // (num_programs * rows * head_dim * 4) - 1)
        places = min(-(-max_context // SEGMENT_TOKENS) + 1, most)
        count = num_programs * (places + 1)
        sums = torch.empty((count, rows, head_dim), dtype=torch.float32, device=device)
        peaks = torch.empty((count, 2, rows), dtype=torch.float32, device=device)
        return Scratch(sums, peaks, num_programs, places, rows)


class Cache(NamedTuple):
    """One layer's pages, and how their keys are scored: what every launch of a layer shares."""

    keys: Tensor
    """[N, K, B, D] of q's dtype or float8_e4m3fn: whole pages, dimension 0 may be strided."""
    values: Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None
    key_scale: float = 1.0
    """What a stored key is multiplied by, where the cache is float8."""
    value_scale: float = 1.0

    def numbers(self) -> tuple[float, float]:
        """``scale`` and ``softcap`` as the kernels take them: of exponents of 2, or of tanh's exponent."""
        scale = self.scale * self.key_scale * LOG2E
        return (scale, 0.0) if self.softcap is None else (2 * scale / self.softcap, self.softcap * LOG2E)

    def shape(self, num_heads: int) -> dict[str, int | bool]:
        """What both kernels are compiled by."""
        _, num_kv_heads, block_size, head_dim = self.keys.shape
        for pages in (self.keys, self.values):
            assert pages.stride()[1:] == (block_size * head_dim, head_dim, 1)
        assert self.keys.stride(0) == self.values.stride(0) and num_heads % num_kv_heads == 0
        return dict(
            KV_HEADS=num_kv_heads, GROUP=num_heads // num_kv_heads, D=head_dim,
            BLOCK_D=max(16, triton.next_power_of_2(head_dim)), PAGE=block_size,
            SEGMENT=SEGMENT_TOKENS, WINDOW=self.window or 0, SOFTCAP=self.softcap is not None,
        )  # fmt: skip


def count_units(
    query_starts: Tensor, context_lens: Tensor, unit_starts: Tensor, *, tokens: int = 1, window: int | None = None
) -> None:
    """Fill ``unit_starts`` [S + 1] int32 for attend_tokens, once for all layers of one window."""
    num_seqs = len(context_lens)
    block = max(16, triton.next_power_of_2(num_seqs))
    _count_units[(1,)](
        query_starts, context_lens, unit_starts, num_seqs,
        TOKENS=tokens, SEGMENT=SEGMENT_TOKENS, WINDOW=window or 0, BLOCK_S=block, num_warps=4,
    )  # fmt: skip


def attend_tokens(
    q: Tensor,
    cache: Cache,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    unit_starts: Tensor,
    scratch: Scratch,
    out: Tensor,
    *,
    tokens: int = 1,
    max_context: int,
) -> None:
    """Fill the rows of ``out`` [T, H, D] that belong to sequences of 1 to ``tokens`` queries.

    Tensors as paged_attention has them, all on the device; unit_starts of the same ``tokens`` and window; ``scratch``
    of at least H / K * tokens rows; max_context bounds context_lens. A sequence of no context gets zeros.
    """
    shape = cache.shape(q.shape[1])
    group, head_dim, num_seqs = int(shape["GROUP"]), int(shape["D"]), len(context_lens)
    tile = token_tile(group * tokens, q.dtype, cache.keys.dtype)
    assert group * tokens <= min(MOST_TOKEN_ROWS, scratch.rows) and q.stride()[1:] == out.stride()[1:] == (head_dim, 1)
    scale, softcap = cache.numbers()
    max_segments = -(-max_context // SEGMENT_TOKENS) + 1
    _attend_tokens[(scratch.num_programs,)](
        q, cache.keys, cache.values, block_tables, query_starts, context_lens, unit_starts, out,
        scratch.sums, scratch.peaks, q.stride(0), out.stride(0), cache.keys.stride(0), block_tables.stride(0),
        num_seqs, max_segments, scale, softcap, cache.value_scale,
        **shape, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, ROWS=scratch.rows, PLACES=scratch.places,
        BLOCK_S=max(16, triton.next_power_of_2(num_seqs)), num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    block, block_seqs = min(64, int(shape["BLOCK_D"])), max(16, triton.next_power_of_2(num_seqs))
    _add_segments[(scratch.num_programs, group, triton.cdiv(head_dim, block))](
        query_starts, unit_starts, out, scratch.sums, scratch.peaks, out.stride(0),
        num_seqs, max_segments, cache.value_scale,
        KV_HEADS=shape["KV_HEADS"], GROUP=group, D=head_dim, ROWS=scratch.rows, PLACES=scratch.places,
        TOKENS=tokens, BLOCK_D=block, BLOCK_P=64, BLOCK_S=block_seqs, UNROLL=8, num_warps=1,
    )  # fmt: skip


def chunk_tiles(counts: np.ndarray, context_lens: np.ndarray, rows: int, *, tokens: int = 1) -> np.ndarray:
    """The work of attend_chunks: (sequence, first query) of each tile, [n, 2] int32, those with most to do first.

    ``rows``: queries of a tile. Sequences of at most ``tokens`` queries have none.
    """
    tiles = np.where(counts > tokens, -(-counts // rows), 0)
    seqs = np.repeat(np.arange(len(counts)), tiles)
    firsts = (np.arange(len(seqs)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * rows
    order = np.argsort(-(context_lens[seqs] - counts[seqs] + firsts), kind="stable")
    return np.stack((seqs, firsts), 1)[order].astype(np.int32)


def chunk_rows(group: int, head_dim: int, dtype: torch.dtype) -> int:
    """Queries of ``dtype`` of one tile of attend_chunks, by query heads of a KV head."""
    return chunk_tile(group, head_dim, dtype).block_m // group


def attend_chunks(
    q: Tensor,
    cache: Cache,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    tiles: Tensor,
    out: Tensor,
) -> None:
    """Fill the rows of ``out`` [T, H, D] that ``tiles``, of chunk_tiles, names; one that names sequence -1 is none."""
    if not len(tiles):
        return
    shape = cache.shape(q.shape[1])
    tile = chunk_tile(int(shape["GROUP"]), int(shape["D"]), q.dtype)
    assert q.stride()[1:] == out.stride()[1:] == (shape["D"], 1)
    scale, softcap = cache.numbers()
    _attend_chunks[(len(tiles) * int(shape["KV_HEADS"]),)](
        q, cache.keys, cache.values, block_tables, query_starts, context_lens, tiles, out,
        q.stride(0), out.stride(0), cache.keys.stride(0), block_tables.stride(0), scale, softcap, cache.value_scale,
        **shape, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip


@paged_attention.on("cuda")
def attend(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See paged_attention. Looks at query_starts and context_lens: where they lie on the device, it waits for them.

    What runs every step calls attend_tokens and attend_chunks with bounds that it knows.
    """
    starts, lens = query_starts.cpu(), context_lens.cpu()
    counts, cache = starts.diff().numpy(), Cache(key_cache, value_cache, scale, sliding_window, softcap)
    query_starts, context_lens = query_starts.to(q.device), context_lens.to(q.device)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_heads, num_kv_heads, head_dim = q.shape[1], *key_cache.shape[1::2]
    tiles = chunk_tiles(counts, lens.numpy(), chunk_rows(num_heads // num_kv_heads, head_dim, q.dtype))
    attend_chunks(q, cache, block_tables, query_starts, context_lens, torch.from_numpy(tiles).to(q.device), out)
    if (counts == 1).any():
        unit_starts, context = torch.empty_like(query_starts), int(lens.max())
        scratch = Scratch.make(
            q.device, programs_of(q.device), rows=num_heads // num_kv_heads, head_dim=head_dim, max_context=context
        )
        count_units(query_starts, context_lens, unit_starts, window=sliding_window)
        attend_tokens(
            q, cache, block_tables, query_starts, context_lens, unit_starts, scratch, out, max_context=context
        )
    return out


def programs_of(device: torch.device) -> int:
    """Programs of attend_tokens that a device holds at once, by its shared memory; a few where it is interpreted."""
    if device.type != "cuda":
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def _step(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block: int,
    window: int | None = None,
    kv_dtype: torch.dtype | None = None,
) -> None:
    """A step of 64 sequences, and one of 2048 tokens."""
    pages = blank(8192, kv_heads, block, head_dim, dtype=kv_dtype or dtype)
    cache = Cache(pages, pages, 0.1, window)
    tables, starts, lens, units = (blank(*size, dtype=torch.int32) for size in ((64, 512), (65,), (64,), (65,)))
    scratch = Scratch.make(torch.device("meta"), 264, rows=heads // kv_heads, head_dim=head_dim, max_context=8192)
    q = blank(64, heads, head_dim, dtype=dtype)
    count_units(starts, lens, units, window=window)
    attend_tokens(q, cache, tables, starts, lens, units, scratch, q, max_context=8192)
    q = blank(2048, heads, head_dim, dtype=dtype)
    attend_chunks(q, cache, tables, starts, lens, blank(64, 2, dtype=torch.int32), q)


_FAST = {"HGMMA": 4, "LDGSTS.128": 8}

VARIANTS = [
    Variant(name, call, {"_attend_tokens": _FAST, "_attend_chunks": _FAST} if "float" not in name else {})
    for name, call in {
        "Llama 8B": lambda: _step(torch.bfloat16, 32, 8, 128, 16),
        "Qwen3 30B, pages of 64": lambda: _step(torch.bfloat16, 32, 4, 128, 64),
        "Qwen2 7B in half precision": lambda: _step(torch.float16, 28, 4, 128, 32),
        "heads of 64": lambda: _step(torch.bfloat16, 9, 3, 64, 16),
        "heads of 96, window": lambda: _step(torch.bfloat16, 32, 32, 96, 16, 2048),
        "Gemma3, heads of 256, pages of 64": lambda: _step(torch.bfloat16, 8, 4, 256, 64, 1024),
        "Llama 8B, float8 cache": lambda: _step(torch.bfloat16, 32, 8, 128, 16, kv_dtype=torch.float8_e4m3fn),
        "float32": lambda: _step(torch.float32, 32, 8, 128, 16),
    }.items()
]
