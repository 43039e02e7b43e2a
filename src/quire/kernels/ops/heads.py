"""What happens to queries, keys and values between their projection and attention, in one pass over a token's heads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.ops.attention import write_kv
from quire.kernels.ops.norm import rms_norm
from quire.kernels.ops.registry import op
from quire.kernels.ops.rotary import rotate


@dataclass(frozen=True)
class HeadNorms:
    """Norms of each query and key head by itself."""

    q: Tensor
    """[D]."""
    k: Tensor
    """[D]."""
    eps: float


@op
def store_heads(
    qkv: Tensor,
    num_heads: int,
    norms: HeadNorms | None,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    """Norm (if asked) and turn queries and keys, store keys and values in their slots, return the queries.

    qkv [T, H + 2K, D]: H = num_heads query heads, then K key and K value heads; cos, sin [T, D/2] float32; caches and
    slot_mapping as write_kv takes them. Returns [T, H, D] in qkv's dtype. Float32 inside; the result of the norm may be
    rounded or not before it is turned. Another body may lay out a cache in its own way, as long as its paged_attention
    reads it so.
    """
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    q, k, v = torch.split_with_sizes(qkv, (num_heads, num_kv_heads, num_kv_heads), dim=1)
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
    write_kv(rotate(k, cos, sin), v, key_cache, value_cache, slot_mapping)
    return rotate(q, cos, sin)
