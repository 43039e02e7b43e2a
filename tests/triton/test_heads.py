"""Heads in Triton: queries as the reference turns them, keys and values in the slots where it puts them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from quire.kernels.ops.attention import write_kv
from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.triton.heads import store_all_heads, write_pages

INF, NAN = float("inf"), float("nan")


def step(
    num_heads: int, num_kv_heads: int, size: int, dtype: torch.dtype, block_size: int = 16, *, normed: bool = True
) -> dict[str, Any]:
    """Five tokens in shuffled slots of six blocks, caches not yet among them."""
    angle = torch.randn(5, size // 2)
    return dict(
        qkv=torch.randn(5, num_heads + 2 * num_kv_heads, size).to(dtype),
        num_heads=num_heads,
        norms=HeadNorms(torch.randn(size).to(dtype), torch.randn(size), 1e-6) if normed else None,
        cos=angle.cos(),
        sin=angle.sin(),
        slot_mapping=torch.randperm(6 * block_size)[:5],
    )


def caches(step: dict[str, Any], block_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    num_kv_heads, size = (step["qkv"].shape[1] - step["num_heads"]) // 2, step["qkv"].shape[2]
    shape = (6, num_kv_heads, block_size, size)
    return dict(key_cache=torch.full(shape, 7.0, dtype=dtype), value_cache=torch.full(shape, 7.0, dtype=dtype))


@pytest.mark.parametrize(
    ("heads", "dtype", "cache_dtype", "block_size", "normed"),
    [
        ((8, 2, 64), torch.float32, torch.float32, 16, True),
        ((9, 3, 32), torch.bfloat16, torch.bfloat16, 32, False),
        ((4, 4, 80), torch.bfloat16, torch.float32, 16, True),
        ((2, 1, 256), torch.float16, torch.float16, 64, True),
        ((14, 2, 128), torch.float32, torch.bfloat16, 16, False),
    ],
)
def test_equals_the_reference(
    heads: tuple[int, int, int], dtype: torch.dtype, cache_dtype: torch.dtype, block_size: int, normed: bool
) -> None:
    given = step(*heads, dtype, block_size, normed=normed)
    mine, theirs = (caches(given, block_size, cache_dtype) for _ in range(2))
    q, expected = store_all_heads(**given, **mine), store_heads.reference(**given, **theirs)
    # The reference rounds once more, after the norm.
    coarsest = max(torch.finfo(dtype).eps, torch.finfo(cache_dtype).eps)
    near = dict(rtol=2 * coarsest, atol=4 * coarsest if normed else coarsest)
    torch.testing.assert_close(q, expected, **near)
    torch.testing.assert_close(mine["key_cache"], theirs["key_cache"], **near)
    assert torch.equal(mine["value_cache"], theirs["value_cache"])


def test_tokens_do_not_depend_on_neighbours_or_strides() -> None:
    given = step(6, 2, 64, torch.bfloat16)
    together = caches(given, 16, torch.bfloat16)
    q = store_all_heads(**given, **together)
    apart = caches(given, 16, torch.bfloat16)
    wide = torch.full((5, 11, 64), 3.0, dtype=torch.bfloat16)
    wide[:, :10] = given["qkv"]
    for i in range(5):
        alone = {name: value[i : i + 1] for name, value in given.items() if name in ("cos", "sin", "slot_mapping")}
        row = store_all_heads(wide[i : i + 1, :10], 6, given["norms"], **alone, **apart)
        assert torch.equal(row[0], q[i])
    assert all(torch.equal(together[name], apart[name]) for name in together)


def test_what_is_not_a_number_is_stored_as_one_and_padding_nowhere() -> None:
    given = step(2, 1, 32, torch.float32, normed=False)
    given["qkv"][0, 2:, :3] = torch.tensor([NAN, INF, -INF])
    given["slot_mapping"][1:3] = -1
    mine = caches(given, 16, torch.float32)
    q = store_all_heads(**given, **mine)
    kept = [0, 3, 4]
    rest = {name: value[kept] for name, value in given.items() if name in ("qkv", "cos", "sin", "slot_mapping")}
    theirs = caches(given, 16, torch.float32)
    store_heads.reference(**{**given, **rest}, **theirs)
    torch.testing.assert_close(mine, theirs)
    assert q.shape == (5, 2, 32)
    empty = {name: value[:0] for name, value in rest.items()}
    assert store_all_heads(**{**given, **empty}, **mine).shape == (0, 2, 32)


@pytest.mark.parametrize(("dtype", "cache_dtype"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)])
def test_keys_and_values_are_written_as_they_are(dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    key, value = torch.randn(2, 5, 11, 48).to(dtype)[:, :, :9]
    key[2, 3, :3] = torch.tensor([NAN, INF, -INF])
    slots = torch.randperm(64)[:5]
    mine, theirs = torch.zeros(2, 2, 4, 9, 16, 48, dtype=cache_dtype)
    write_pages(key, value, *mine, slots)
    write_kv.reference(key, value, *theirs, slots)
    assert torch.equal(mine, theirs)
