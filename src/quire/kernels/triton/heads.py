"""Queries, keys and values between their projection and attention on a CUDA device: one launch a layer.

Contract: a program takes up to ``HEADS`` heads of one token, queries, keys and values alike; each head is normed over
its own features, in float32, in an order that depends on the head's size alone, and turned without rounding between.
Caches [N, K, B, D] are written in place, through their strides. A token whose slot is negative is stored nowhere: so a
captured graph may be padded.

Bound: memory, one read and one write of every head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.attention import write_kv
from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.triton.tuning import HEADS, head_warps
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _finite(x):
    """NaN as 0 and infinity as the largest half-precision number."""
    x = tl.where(x == x, x, 0.0)
    x = tl.where(x == float("inf"), 65504.0, x)
    return tl.where(x == float("-inf"), -65504.0, x)


@triton.jit
def _keep(
    a, b, cache, slot, head, feature, inside, half, block_size, block_stride, head_stride, token_stride
):  # fmt: skip
    """Store halves of heads in their slot of a cache."""
    to = cache + slot // block_size * block_stride + slot % block_size * token_stride + head * head_stride + feature
    tl.store(to, _finite(a.to(tl.float32)).to(cache.dtype.element_ty), inside)
    tl.store(to + half, _finite(b.to(tl.float32)).to(cache.dtype.element_ty), inside)


@triton.jit
def _norm(a, b, q_norm, k_norm, is_query, is_key, feature, half, eps):
    """Both halves of heads, queries and keys normed by weights of their own; zeros of values, which nobody takes."""
    scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / (2 * half) + eps)[:, None]
    weight_a = tl.load(q_norm + feature, is_query, other=0.0).to(tl.float32)
    weight_b = tl.load(q_norm + half + feature, is_query, other=0.0).to(tl.float32)
    weight_a += tl.load(k_norm + feature, is_key, other=0.0).to(tl.float32)
    weight_b += tl.load(k_norm + half + feature, is_key, other=0.0).to(tl.float32)
    return a * scale * weight_a, b * scale * weight_b


@triton.jit
def _store_heads(
    qkv, q_norm, k_norm, cos, sin, out, key_cache, value_cache, slot_mapping, eps, row_stride, head_stride,
    key_block_stride, key_head_stride, key_token_stride, value_block_stride, value_head_stride, value_token_stride,
    num_heads, num_kv_heads, block_size, half, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    feature = tl.arange(0, HALF)[None, :]
    is_feature = feature < half
    inside = (head < num_heads + 2 * num_kv_heads) & is_feature
    is_value = head >= num_heads + num_kv_heads
    is_query = (head < num_heads) & is_feature
    is_key = (head >= num_heads) & is_feature & (head < num_heads + num_kv_heads)

    start = qkv + row * row_stride + head * head_stride + feature
    first = tl.load(start, inside, other=0.0).to(tl.float32)
    second = tl.load(start + half, inside, other=0.0).to(tl.float32)

    c = tl.load(cos + row * half + feature, is_feature, other=0.0)
    s = tl.load(sin + row * half + feature, is_feature, other=0.0)
    a, b = first, second
    if q_norm is not None:
        a, b = _norm(a, b, q_norm, k_norm, is_query, is_key, feature + head * 0, half, eps)
    # Rounded as queries are, whatever the cache's type: what a float32 cache holds does not depend on the body.
    turned_a = tl.where(is_value, first, a * c - b * s).to(out.dtype.element_ty)
    turned_b = tl.where(is_value, second, b * c + a * s).to(out.dtype.element_ty)

    query = out + (row * num_heads + head) * (2 * half) + feature
    tl.store(query, turned_a, is_query)
    tl.store(query + half, turned_b, is_query)

    slot = tl.load(slot_mapping + row)
    _keep(
        turned_a, turned_b, key_cache, slot, head - num_heads, feature, is_key & (slot >= 0), half, block_size,
        key_block_stride, key_head_stride, key_token_stride,
    )  # fmt: skip
    _keep(
        turned_a, turned_b, value_cache, slot, head - num_heads - num_kv_heads, feature,
        inside & is_value & (slot >= 0), half, block_size, value_block_stride, value_head_stride, value_token_stride,
    )  # fmt: skip


@triton.jit
def _write(
    new, cache, slot_mapping, token_stride, head_stride, cache_block_stride, cache_head_stride, cache_token_stride,
    num_heads, block_size, size, HEADS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    feature = tl.arange(0, SIZE)[None, :]
    slot = tl.load(slot_mapping + row)
    inside = (head < num_heads) & (feature < size) & (slot >= 0)
    kept = _finite(tl.load(new + row * token_stride + head * head_stride + feature, inside, other=0.0).to(tl.float32))
    start = cache + slot // block_size * cache_block_stride + slot % block_size * cache_token_stride
    tl.store(start + head * cache_head_stride + feature, kept.to(cache.dtype.element_ty), inside)


@store_heads.on("cuda")
def store_all_heads(
    qkv: Tensor,
    num_heads: int,
    norms: HeadNorms | None,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    """See store_heads. Caches of int8 are written by the reference."""
    if key_cache.dtype == torch.int8:
        return store_heads.reference(qkv, num_heads, norms, cos, sin, key_cache, value_cache, slot_mapping)
    num_tokens, total, size = qkv.shape
    assert qkv.stride(2) == 1 and cos.is_contiguous() and sin.is_contiguous()
    assert key_cache.stride(3) == 1 and value_cache.stride(3) == 1
    out = torch.empty((num_tokens, num_heads, size), dtype=qkv.dtype, device=qkv.device)
    if num_tokens:
        half = triton.next_power_of_2(size // 2)
        _store_heads[(num_tokens, triton.cdiv(total, HEADS))](
            qkv,
            None if norms is None else norms.q,
            None if norms is None else norms.k,
            cos,
            sin,
            out,
            key_cache,
            value_cache,
            slot_mapping,
            0.0 if norms is None else norms.eps,
            *qkv.stride()[:2],
            *key_cache.stride()[:3],
            *value_cache.stride()[:3],
            num_heads,
            (total - num_heads) // 2,
            key_cache.shape[2],
            size // 2,
            HEADS=HEADS,
            HALF=half,
            num_warps=head_warps(half),
        )
    return out


@write_kv.on("cuda")
def write_pages(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> None:
    """See write_kv. Caches of int8 are written by the reference."""
    if key_cache.dtype == torch.int8:
        write_kv.reference(key, value, key_cache, value_cache, slot_mapping)
        return
    for new, cache in ((key, key_cache), (value, value_cache)):
        num_tokens, num_heads, size = new.shape
        assert new.stride(2) == 1 and cache.stride(3) == 1
        if num_tokens:
            width = triton.next_power_of_2(size)
            _write[(num_tokens, triton.cdiv(num_heads, HEADS))](
                new,
                cache,
                slot_mapping,
                *new.stride()[:2],
                *cache.stride()[:3],
                num_heads,
                cache.shape[2],
                size,
                HEADS=HEADS,
                SIZE=width,
                num_warps=head_warps(width),
            )


def _variant(num_heads: int, num_kv_heads: int, size: int, *, has_norms: bool) -> Variant:
    def call() -> Tensor:
        norms = HeadNorms(blank(size), blank(size), 1e-6) if has_norms else None
        cache = blank(4096, num_kv_heads, 16, size)
        angle = blank(64, size // 2, dtype=torch.float32)
        qkv = blank(64, num_heads + 2 * num_kv_heads, size)
        return store_all_heads(qkv, num_heads, norms, angle, angle, cache, cache, blank(64, dtype=torch.int64))

    name = f"{num_heads}/{num_kv_heads} heads of {size}{', normed' * has_norms}"
    return Variant(name, call, {"_store_heads": {"LDG.128": 2, "STG.128": 6}})


def _write_kv() -> None:
    cache, new = blank(4096, 8, 16, 128), blank(64, 8, 128)
    write_pages(new, new, cache, cache, blank(64, dtype=torch.int64))


VARIANTS = [
    _variant(32, 8, 128, has_norms=False),
    _variant(32, 4, 128, has_norms=True),
    _variant(8, 4, 256, has_norms=True),
    _variant(32, 8, 64, has_norms=False),
    Variant("keys and values as they are", _write_kv, {"_write": {"LDG.128": 1, "STG.128": 1}}),
]
