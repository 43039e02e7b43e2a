"""Operators that take rows one by one: norms, activations, rounding, the vocabulary's ends, heads on their way in."""

from functools import partial

import torch
from benchmarks.gpu.calls import BF16, F16, F32, Call, Case, Maker, some_rows
from torch import Tensor

from quire.kernels.ops.heads import HeadNorms

ROWS = ((1, 1), (7, 3), (256, 4), (2048, 5), (8192, 6))
"""Numbers of rows: real, and in a trial."""


def _alone(call: Call, *places: int) -> Call:
    """The last row, and the first."""
    last = len(call.args[places[0]]) - 1
    call.alone = [some_rows(call, places, [row]) for row in sorted({0, last})]
    return call


def _norm(model: str, rows: tuple[int, int], dtype: torch.dtype, has_residual: bool, m: Maker) -> Call:
    num_rows, size = m.size(*rows), m.models[model].hidden
    residual = m.normal(num_rows, size, dtype=dtype) if has_residual else None
    weight = m.normal(size, std=0.3, dtype=dtype) + 1
    return _alone(Call((m.normal(num_rows, size, std=3.0, dtype=dtype), weight, 1e-6, residual)), 0, 3)


def _norm_of_heads(m: Maker) -> Call:
    """Rows that are a part of wider ones."""
    qkv = m.normal(m.size(300, 3), 40, m.size(128, 32))
    return Call((qkv[:, :32], m.normal(qkv.shape[2], std=0.3) + 1, 1e-6))


def _activation(model: str, rows: tuple[int, int], dtype: torch.dtype, m: Maker) -> Call:
    return _alone(Call((m.normal(m.size(*rows), 2 * m.models[model].ffn, std=2.0, dtype=dtype),)), 0)


def _take(m: Maker) -> Call:
    x, rows = m.normal(m.size(8192, 6), m.models["llama"].hidden), m.size(256, 4)
    return Call((x, m.integers(0, len(x), rows, dtype=torch.int64)), tolerance=0)


def _embedding(model: str, scale: float, m: Maker) -> Call:
    sizes = m.models[model]
    ids = m.integers(0, sizes.vocab, m.size(2048, 5), dtype=torch.int64)
    return Call((ids, m.normal(sizes.vocab, sizes.hidden), scale))


def _angles(m: Maker) -> Call:
    """Positions as far as 32k, where an angle rounded otherwise is another."""
    half = m.size(64, 16)
    exponents = torch.arange(half, device=m.device, dtype=F32) / half
    positions = m.integers(0, 32768, m.size(8192, 6), dtype=torch.int64)
    return Call((positions, 500000.0**-exponents, 1.0), tolerance=2e-5)


def _rotate(m: Maker) -> Call:
    half, rows = m.size(64, 16), m.size(2048, 5)
    turned = m.uniform(rows, half, high=6.28)
    return Call((m.normal(rows, 32, 2 * half), turned.cos(), turned.sin()))


def _round(rows: tuple[int, int], group: int | None, m: Maker) -> Call:
    x = m.normal(m.size(*rows), m.models["llama"].hidden, std=2.0)
    call = Call((x, group), tolerance=5e-3)
    return _alone(call, 0)


def _round_int8(rows: tuple[int, int], m: Maker) -> Call:
    return _alone(Call((m.normal(m.size(*rows), m.models["llama"].hidden, std=2.0),), tolerance=5e-3), 0)


def _round_static(rows: tuple[int, int], m: Maker) -> Call:
    x = m.normal(m.size(*rows), m.models["llama"].hidden, std=2.0)
    return _alone(Call((x, torch.full((1,), 0.02, device=m.device)), tolerance=5e-3), 0)


def pages(m: Maker, count: int, kv_heads: int, block: int, size: int, dtype: torch.dtype) -> Tensor:
    return m.normal(count, kv_heads, block, size, dtype=dtype)


def _store(model: str, rows: tuple[int, int], block: int, has_norms: bool, dtype: torch.dtype, m: Maker) -> Call:
    sizes, num_rows = m.models[model], m.size(*rows)
    size, kv_heads = sizes.head_dim, sizes.kv_heads
    count = -(-num_rows // block) + 3
    turned = m.uniform(num_rows, size // 2, high=6.28)
    norms = HeadNorms(m.normal(size, std=0.2) + 1, m.normal(size, std=0.2) + 1, 1e-6) if has_norms else None
    cache = partial(pages, m, count, kv_heads, block, size, dtype)
    slots = m.permutation(count * block)[:num_rows]
    qkv = m.normal(num_rows, sizes.heads + 2 * kv_heads, size)
    args = (qkv, sizes.heads, norms, turned.cos(), turned.sin(), cache(), cache(), slots)
    return Call(args, written=(5, 6), tolerance=4e-3)  # a cache of float32 holds what was rounded before


def _write(m: Maker) -> Call:
    sizes, num_rows = m.models["llama"], m.size(2048, 5)
    cache = partial(pages, m, m.size(200, 4), sizes.kv_heads, 16, sizes.head_dim, BF16)
    new = partial(m.normal, num_rows, sizes.kv_heads, sizes.head_dim)
    slots = m.permutation(m.size(200, 4) * 16)[:num_rows]
    return Call((new(), new(), cache(), cache(), slots), written=(2, 3), tolerance=0)


def cases() -> list[Case]:
    found = []
    for rows in ROWS:
        many = f"{rows[0]} rows"
        found += [
            Case("rms_norm", f"{many}, residual", partial(_norm, "llama", rows, BF16, True)),
            Case("silu_and_mul", many, partial(_activation, "llama", rows, BF16)),
            Case("quantize_fp8", f"{many}, of rows", partial(_round, rows, None)),
            Case("quantize_fp8", f"{many}, of 128", partial(_round, rows, 128)),
            Case("quantize_int8", many, partial(_round_int8, rows)),
            Case("store_heads", f"Llama, {many}", partial(_store, "llama", rows, 16, False, BF16)),
            Case("store_heads", f"Qwen, {many}", partial(_store, "qwen", rows, 64, True, BF16)),
        ]
    middle = ROWS[2]
    found += [
        Case("rms_norm", "Gemma, no residual", partial(_norm, "gemma", ROWS[3], BF16, False)),
        Case("rms_norm", "float16", partial(_norm, "small", middle, F16, True)),
        Case("rms_norm", "float32", partial(_norm, "small", middle, F32, True)),
        Case("rms_norm", "heads in wider rows", _norm_of_heads),
        Case("silu_and_mul", "float32", partial(_activation, "small", middle, F32)),
        Case("gelu_tanh_and_mul", "Gemma", partial(_activation, "gemma", ROWS[3], BF16)),
        Case("gelu_tanh_and_mul", "one row, float16", partial(_activation, "gemma", ROWS[0], F16)),
        Case("quantize_fp8_static", "256 rows", partial(_round_static, middle)),
        Case("quantize_int8_static", "256 rows", partial(_round_static, middle)),
        Case("take_rows", "256 of 8192", _take),
        Case("embedding", "Llama", partial(_embedding, "llama", 1.0)),
        Case("embedding", "Gemma, scaled", partial(_embedding, "gemma", 50.5)),
        Case("angles", "to 32k", _angles),
        Case("rotate", "2048 rows", _rotate),
        Case("store_heads", "Gemma", partial(_store, "gemma", middle, 32, True, BF16)),
        Case("store_heads", "heads of 64", partial(_store, "small", middle, 16, False, BF16)),
        Case("store_heads", "float32 pages", partial(_store, "llama", middle, 16, False, F32)),
        Case("write_kv", "2048 rows", _write),
    ]
    return found
