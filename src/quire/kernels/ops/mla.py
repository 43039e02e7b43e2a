"""Attention over compressed keys and values: one latent vector a token, from which all heads' keys and values come.

What turns latents into keys is taken into the queries, and what turns them into values comes after attention; so the
cache holds a token's latent vector and its rotated part, once for all heads. Source: DeepSeek-AI 2024 (DeepSeek-V2).

Layout: cache [N, B, R + P], R latent features and behind them P rotated ones.
"""

import torch
from torch import Tensor

from quire.kernels.ops.attention import paged_attention
from quire.kernels.ops.registry import op


@op
def write_latents(latents: Tensor, cache: Tensor, slot_mapping: Tensor) -> None:
    """Store each token's latents [T, R + P] in its slot of cache [N, B, R + P].

    slot_mapping and what becomes of NaN and infinity: as in write_kv.
    """
    block_size, limit = cache.shape[1], torch.finfo(torch.float16).max
    cache[slot_mapping // block_size, slot_mapping % block_size] = latents.nan_to_num(0.0, limit, -limit).to(
        cache.dtype
    )


@op
def latent_attention(
    q: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    num_latents: int,
    scale: float,
) -> Tensor:
    """Causal attention of queries [T, H, R + P] to latents, R = num_latents: returns [T, H, R], sums of latents.

    cache as write_latents has it; the rest, and the law, as in paged_attention.
    """
    pages = cache[:, None]
    out = paged_attention(q, pages, pages, block_tables, query_starts, context_lens, scale=scale)
    return out[..., :num_latents]
