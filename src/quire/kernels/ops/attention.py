"""Attention over a paged KV cache, and the write into it.

Law: a row's result depends on its own sequence alone, bit for bit: not on the rows beside it, the chunk it came in,
the padding around it, or where its blocks lie. How the reference keeps it:

- Keys are taken in tiles of a fixed length C at absolute positions, so all products are [rows, D] x [D, C] and
  [rows, C] x [C, D]. Rows are padded to multiples of ROW_TILE, among which a matrix product gives a row the same bits
  whatever their number.
- Tiles are joined into segments, also at absolute positions. A segment is summed tile after tile; segments are joined
  one after another with a running maximum. A masked tile adds exact zeros, a masked segment changes nothing (its weight
  is exp(-inf) = 0, the others' exp(0) = 1), so that computing or skipping invisible ones cannot show.

Layout: key and value cache [N, K, B, D]: blocks gathered by table are ready for a batched product. A cache of int8 is
[N, K, B, D + SCALE_BYTES], whose keys are mixed, as are queries that meet them.
Source of the running maximum: Milakov & Gimelshein 2018; of its use over tiles: Dao et al. 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.int8 import MOST_MIXED, dequantize, mix, quantize
from quire.kernels.ops.linear import ROW_TILE
from quire.kernels.ops.registry import op

TILE_TOKENS = 64
"""Keys in one product, at least; a tile is as many blocks as that takes."""

SEGMENT_TOKENS = 512
"""Positions joined under one maximum: bounds memory, and enough to keep calls few."""

QUERY_TILE = 128
"""Most tokens of one sequence computed at once; bounds memory at H * QUERY_TILE * SEGMENT_TOKENS scores."""

GATHER_BYTES = 4 * 2**20
"""Keys gathered at once for a group of single-token sequences: near what a core's cache holds."""

_LOWEST = -1e30
"""The maximum of nothing: finite, since -inf minus -inf is not a number."""


@op
def write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> None:
    """Store each token's key and value in its slot.

    key, value [T, K, D]; caches [N, K, B, D], or of int8 (see kernels/ops/int8.py) [N, K, B, D + SCALE_BYTES], written
    in place; slot_mapping [T] int64, block * B + offset, no slot twice. NaN is stored as 0 and infinity as the largest
    half-precision number: a block's next owner multiplies what is left there by zero, which must give zero. (A sequence
    that meets NaN keeps it in its residual stream.)
    """
    block_size = key_cache.shape[2]
    block, offset = slot_mapping // block_size, slot_mapping % block_size
    limit = torch.finfo(torch.float16).max
    key, value = (new.nan_to_num(0.0, limit, -limit) for new in (key, value))
    if key_cache.dtype == torch.int8:
        key, value = quantize(mix(key.float().clamp(-MOST_MIXED, MOST_MIXED))), quantize(value)
    key_cache[block, :, offset], value_cache[block, :, offset] = key.to(key_cache.dtype), value.to(value_cache.dtype)


@op
def paged_attention(
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
    """Causal attention of each sequence's newest tokens to all its tokens, whose KV is already in the cache.

    q [T, H, D], rows of sequence i at query_starts[i] : query_starts[i + 1], its last tokens, in order; caches
    as write_kv has them, H a multiple of K; block_tables [S, nb] int32, entries past a sequence's context any valid id;
    query_starts [S + 1] and context_lens [S] int32. Position p sees positions max(0, p - sliding_window + 1) .. p.
    Scores are multiplied by ``scale``, then softcap * tanh(score / softcap) if given. Float32 inside.
    Returns [T, H, D] in q's dtype: zeros behind the last sequence's rows.
    """
    cache = _Cache(key_cache, value_cache, sliding_window, softcap)
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = key_cache.shape[1]
    wide = mix(q) if key_cache.dtype == torch.int8 else q.float()
    heads = (wide * scale).view(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    tables = block_tables.long()
    lens, starts = (t.cpu().numpy().astype(np.int64) for t in (context_lens, query_starts))
    counts = np.diff(starts)
    out = torch.zeros_like(heads)
    for chosen in cache.groups(np.flatnonzero(counts == 1), lens):
        rows, places = (torch.from_numpy(i).to(q.device) for i in (starts[chosen], chosen))
        out[rows] = cache.attend(heads[rows], lens[chosen, None] - 1, tables[places])
    for i in np.flatnonzero(counts > 1).tolist():
        for first in range(int(starts[i]), int(starts[i + 1]), QUERY_TILE):
            last = min(first + QUERY_TILE, int(starts[i + 1]))
            positions = np.arange(first, last) + (lens[i] - starts[i + 1])
            out[first:last] = cache.attend_chunk(heads[first:last], positions, tables[i : i + 1])
    return out.view(q.shape).to(q.dtype)


@dataclass(frozen=True)
class _Cache:
    """One layer's KV cache and who may see what in it."""

    key: Tensor
    value: Tensor
    window: int | None
    softcap: float | None

    @property
    def tile_blocks(self) -> int:
        return -(-TILE_TOKENS // self.key.shape[2])

    @property
    def tile_tokens(self) -> int:
        return self.tile_blocks * self.key.shape[2]

    @property
    def segment_tiles(self) -> int:
        return max(1, SEGMENT_TOKENS // self.tile_tokens)

    @property
    def segment_tokens(self) -> int:
        return self.segment_tiles * self.tile_tokens

    def first_segment(self, positions: np.ndarray) -> np.ndarray:
        """Segment of the first key that ``positions`` see."""
        visible = positions * 0 if self.window is None else np.maximum(positions - self.window + 1, 0)
        return visible // self.segment_tokens

    def num_segments(self, positions: np.ndarray) -> np.ndarray:
        """How many segments hold keys that ``positions`` see."""
        segments: np.ndarray = positions // self.segment_tokens - self.first_segment(positions) + 1
        return segments

    def groups(self, sequences: np.ndarray, lens: np.ndarray) -> Iterator[np.ndarray]:
        """Sequences of one new token each, in groups that are alike in length and whose keys fit in a cache."""
        order = np.lexsort((-lens[sequences], -self.num_segments(lens[sequences] - 1)))
        rest = sequences[order]
        while len(rest):
            longest = min(self.segment_tokens, int(lens[rest[0]]))
            fitting = max(1, GATHER_BYTES // (4 * self.key[0, :, 0].numel() * longest))
            yield rest[:fitting]
            rest = rest[fitting:]

    def attend_chunk(self, q: Tensor, positions: np.ndarray, table: Tensor) -> Tensor:
        """[n, K, G, D] queries of one sequence at ``positions`` [n]."""
        n, num_kv_heads, group, head_dim = q.shape
        rows = q.permute(1, 2, 0, 3).reshape(1, num_kv_heads, -1, head_dim)
        attended = self.attend(rows, np.tile(positions, group)[None], table)
        return attended.view(num_kv_heads, group, n, head_dim).permute(2, 0, 1, 3)

    def attend(self, q: Tensor, positions: np.ndarray, tables: Tensor) -> Tensor:
        """[n, K, R, D] queries of n sequences at ``positions`` ([n, R], or [n, 1] if a sequence's rows share theirs).

        Sequences come with falling numbers of segments, so that those still unfinished are always the first ones.
        """
        num_rows = q.shape[2]
        short = -num_rows % ROW_TILE
        if short:
            q = F.pad(q, (0, 0, 0, short))
            if positions.shape[1] > 1:
                positions = np.pad(positions, ((0, 0), (0, short)), mode="edge")
        state = _Running(q, self.softcap)
        lowest, highest = positions.min(1), positions.max(1)
        first, last = self.first_segment(lowest), highest // self.segment_tokens
        at = torch.from_numpy(positions).to(q.device)
        for step in range(int((last - first).max()) + 1):
            active = int((last - first >= step).sum())
            start = (first[:active] + step) * self.segment_tokens
            num_tiles = min(self.segment_tiles, int((highest[:active] - start).max()) // self.tile_tokens + 1)
            keys = torch.arange(num_tiles * self.tile_tokens) + torch.from_numpy(start)[:, None]
            k, v = self._gather(tables[:active], keys.to(q.device))
            end = start + num_tiles * self.tile_tokens
            seen_by_all = self.window is None and bool((end <= lowest[:active] + 1).all())
            state.add(k, v, None if seen_by_all else self._bound(at[:active], keys.to(q.device)))
        return state.result()[:, :, :num_rows]

    def _gather(self, tables: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at positions ``keys`` [n, whole tiles], as tiles [n * K, tiles, C, D] in float32."""
        num_kv_heads, block_size, width = self.key.shape[1:]
        columns = (keys[:, ::block_size] // block_size).clamp_(max=tables.shape[1] - 1)
        heads = torch.arange(num_kv_heads, device=keys.device)
        pages = (tables.gather(1, columns)[:, None] * num_kv_heads + heads[:, None]).flatten()
        k, v = (t.view(-1, block_size * width).index_select(0, pages) for t in (self.key, self.value))
        shape = (len(keys) * num_kv_heads, -1, self.tile_tokens, width)
        return _floats(k.view(shape)), _floats(v.view(shape))

    def _bound(self, positions: Tensor, keys: Tensor) -> Tensor:
        """[n, 1, tiles, R, C]: the most a score may be, +inf where the key is visible and -inf where it is not."""
        tiles = keys.view(len(keys), -1, 1, self.tile_tokens)
        queries = positions[:, None, :, None]
        visible = tiles <= queries
        if self.window is not None:
            visible &= tiles > queries - self.window
        bound = torch.full(visible.shape, -torch.inf, device=keys.device)
        return bound.masked_fill_(visible, torch.inf)[:, None]


def _floats(pages: Tensor) -> Tensor:
    return dequantize(pages) if pages.dtype == torch.int8 else pages.float()


class _Running:
    """Softmax over segments that arrive one after another: maximum, weight and weighted sum of values so far."""

    def __init__(self, q: Tensor, softcap: float | None) -> None:
        self.q = q
        self.softcap = softcap
        self.maximum = q.new_full((*q.shape[:3], 1), _LOWEST)
        self.weight = torch.zeros_like(self.maximum)
        self.total = torch.zeros_like(q)

    def add(self, k: Tensor, v: Tensor, bound: Tensor | None) -> None:
        """Take in one segment, k and v [n * K, tiles, C, D], of the first n sequences."""
        num_tiles, tile_tokens = k.shape[1:3]
        n = len(k) // self.q.shape[1]
        q, maximum, weight, total = (t[:n] for t in (self.q, self.maximum, self.weight, self.total))
        repeated = q[:, :, None].expand(-1, -1, num_tiles, -1, -1).flatten(0, 2)
        flat = torch.bmm(repeated, k.flatten(0, 1).transpose(1, 2))
        if self.softcap is not None:
            flat = flat.div_(self.softcap).tanh_().mul_(self.softcap)
        scores = flat.view(*q.shape[:2], num_tiles, -1, tile_tokens)
        if bound is not None:
            torch.minimum(scores, bound, out=scores)
        grown = torch.maximum(maximum, scores.amax(-1, keepdim=True).amax(2))
        rescale = torch.exp(maximum - grown)
        p = scores.sub_(grown[:, :, None]).exp_()
        # cumsum adds in order; a sum may pair tiles by how many there are.
        weight.mul_(rescale).add_(p.sum(-1, keepdim=True).cumsum(2)[:, :, -1])
        total.mul_(rescale)
        p, sums = p.flatten(0, 1), total.flatten(0, 1)
        for tile in range(num_tiles):
            sums.baddbmm_(p[:, tile], v[:, tile])
        maximum.copy_(grown)

    def result(self) -> Tensor:
        """[n, K, R, D] weighted means of the values."""
        return self.total / self.weight
