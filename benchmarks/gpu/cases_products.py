"""Products with weights, plain and quantized, and the two ends of the vocabulary."""

from functools import partial

import torch
from benchmarks.gpu.calls import BF16, F16, F32, Call, Case, Maker, half_of, some_rows

from quire.kernels.ops.fp8 import BLOCK, FP8
from quire.kernels.ops.w4a16 import W4Numbers, pack

ROWS = ((1, 1), (8, 3), (16, 4), (33, 5), (64, 6), (300, 7), (2048, 9), (8192, 40))
"""Numbers of rows: real, and in a trial."""
THIN_PLAIN, THIN_NARROW = 16, 32
"""Up to so many rows, plain and of 8 bits, a row is the same alone; beyond, in any company of more than so many."""
_FP8_TOLERANCE = 1e-2
"""Hopper sums products of e4m3 with some 14 bits."""


def _among(call: Call, *places: int, thin: int) -> Call:
    num_rows = len(call.args[0])
    if num_rows <= thin:
        call.alone = [some_rows(call, places, [num_rows // 2])]
    else:
        call.alone = [some_rows(call, places, half_of(num_rows, thin + 1))]
    return call


def _linear(model: str, kind: str, rows: tuple[int, int], dtype: torch.dtype, m: Maker) -> Call:
    """qkv with a bias, down with a residual."""
    sizes, num_rows = m.models[model], m.size(*rows)
    num_out, num_in = {
        "qkv": ((sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim, sizes.hidden),
        "down": (sizes.hidden, sizes.ffn),
    }[kind]
    bias = m.normal(num_out, dtype=dtype) if kind == "qkv" else None
    residual = m.normal(num_rows, num_out, dtype=dtype) if kind == "down" else None
    call = Call((m.normal(num_rows, num_in, dtype=dtype), m.weight(num_out, num_in, dtype), bias, residual))
    return _among(call, 0, 3, thin=THIN_PLAIN) if num_rows <= THIN_PLAIN and dtype != F32 else call


def _strided(m: Maker) -> Call:
    sizes = m.models["llama"]
    wide = m.normal(8, 2 * sizes.hidden)
    return Call((wide[:, sizes.hidden :], m.weight(sizes.hidden, sizes.hidden), None, None))


def _gated(model: str, activation: str, rows: tuple[int, int], m: Maker) -> Call:
    sizes, num_rows = m.models[model], m.size(*rows)
    call = Call((m.normal(num_rows, sizes.hidden), m.weight(2 * sizes.ffn, sizes.hidden), activation), tolerance=8e-3)
    return _among(call, 0, thin=THIN_PLAIN) if num_rows <= THIN_PLAIN else call


def _logits(model: str, softcap: float | None, rows: tuple[int, int], m: Maker) -> Call:
    sizes = m.models[model]
    x, table = m.normal(m.size(*rows), sizes.hidden), m.weight(sizes.vocab, sizes.hidden)
    return Call((x, table, softcap), tolerance=4e-3)  # it may be rounded to x's dtype first


def _likeliest(model: str, rows: tuple[int, int], m: Maker) -> Call:
    """With equals, and rows that are not sound."""
    y = m.normal(m.size(*rows), m.models[model].vocab, dtype=F32)
    y = (y * 64).round() / 64
    if len(y) > 2:
        y[-1, 5] = torch.nan
        y[1, 7], y[2] = torch.inf, -torch.inf
    return Call((y,), tolerance=0)


def fp8_weight(m: Maker, num_out: int, num_in: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3, and scales of its rows or blocks."""
    weight = m.normal(num_out, num_in, std=100.0, dtype=F32).clamp(-448, 448).to(FP8)
    shape = (-(-num_out // BLOCK), -(-num_in // BLOCK)) if kind == "blocks" else (num_out,)
    return weight, m.uniform(*shape, low=0.5, high=1.5) * (num_in**-0.5 / 100)


def _fp8(shape: tuple[str, str], kind: str, rows: tuple[int, int], has_residual: bool, m: Maker) -> Call:
    sizes, num_rows = m.models["llama"], m.size(*rows)
    num_out, num_in = (getattr(sizes, name) for name in shape)
    weight, scale = fp8_weight(m, num_out, num_in, kind)
    given = torch.full((1,), 0.02, device=m.device) if kind == "static" else None
    residual = m.normal(num_rows, num_out) if has_residual else None
    call = Call((m.normal(num_rows, num_in), weight, scale, given, None, residual), tolerance=_FP8_TOLERANCE)
    return _among(call, 0, 5, thin=THIN_NARROW)


def _fp8_gated(kind: str, rows: tuple[int, int], m: Maker) -> Call:
    sizes, num_rows = m.models["llama"], m.size(*rows)
    weight, scale = fp8_weight(m, 2 * sizes.ffn, sizes.hidden, kind)
    given = torch.full((1,), 0.02, device=m.device) if kind == "static" else None
    call = Call((m.normal(num_rows, sizes.hidden), weight, scale, "silu", given), tolerance=2 * _FP8_TOLERANCE)
    return _among(call, 0, thin=THIN_NARROW)


def _w8a8(rows: tuple[int, int], m: Maker) -> Call:
    sizes, num_rows = m.models["llama"], m.size(*rows)
    weight = m.integers(-127, 128, sizes.hidden, sizes.hidden, dtype=torch.int8)
    scale = m.uniform(sizes.hidden, low=0.5, high=1.5) * 1e-4
    bias, residual = m.normal(sizes.hidden), m.normal(num_rows, sizes.hidden)
    call = Call((m.normal(num_rows, sizes.hidden), weight, scale, None, bias, residual))
    return _among(call, 0, 5, thin=THIN_NARROW)


def w4_weight(m: Maker, num_out: int, num_in: int, group: int, has_zeros: bool, dtype: torch.dtype) -> object:
    """A packed matrix of 4 bits."""
    groups = num_in // group
    codes = m.integers(0, 16, num_out, num_in, dtype=torch.uint8)
    scales = (m.uniform(num_out, groups, low=0.5, high=1.5) * 0.2 * num_in**-0.5).to(dtype)
    zeros = m.integers(0, 17, num_out, groups, dtype=torch.uint8) if has_zeros else None
    return pack(W4Numbers(codes, scales, zeros, None))


def _w4a16(rows: tuple[int, int], group: int, has_zeros: bool, dtype: torch.dtype, m: Maker) -> Call:
    sizes, num_rows = m.models["llama"], m.size(*rows)
    weight = w4_weight(m, sizes.hidden, sizes.hidden, group, has_zeros, dtype)
    residual = m.normal(num_rows, sizes.hidden, dtype=dtype)
    call = Call((m.normal(num_rows, sizes.hidden, dtype=dtype), weight, None, residual))
    return _among(call, 0, 3, thin=THIN_NARROW)


def cases() -> list[Case]:
    found = []
    for rows in ROWS:
        many = f"{rows[0]} rows"
        found += [
            Case("linear", f"Llama qkv, bias, {many}", partial(_linear, "llama", "qkv", rows, BF16)),
            Case("linear", f"Llama down, residual, {many}", partial(_linear, "llama", "down", rows, BF16)),
            Case("gated_linear", f"Llama, {many}", partial(_gated, "llama", "silu", rows)),
            Case("fp8_linear", f"blocks, {many}", partial(_fp8, ("hidden", "ffn"), "blocks", rows, True)),
            Case("fp8_linear", f"rows, {many}", partial(_fp8, ("ffn", "hidden"), "rows", rows, False)),
            Case("fp8_gated_linear", f"blocks, {many}", partial(_fp8_gated, "blocks", rows)),
            Case("w8a8_linear", many, partial(_w8a8, rows)),
            Case("w4a16_linear", f"groups of 128, zeros, {many}", partial(_w4a16, rows, 128, True, BF16)),
        ]
    one, few, some = ROWS[0], ROWS[1], ROWS[5]
    found += [
        Case("linear", "SmolLM2 qkv, 8 rows", partial(_linear, "small", "qkv", few, BF16)),
        Case("linear", "float16, 8 rows", partial(_linear, "llama", "qkv", few, F16)),
        Case("linear", "float32, 8 rows", partial(_linear, "small", "down", few, F32)),
        Case("linear", "rows in wider ones", _strided),
        Case("gated_linear", "Gemma, 8 rows", partial(_gated, "gemma", "gelu_tanh", few)),
        Case("gated_linear", "Gemma, 300 rows", partial(_gated, "gemma", "gelu_tanh", some)),
        Case("fp8_linear", "a known scale, 8 rows", partial(_fp8, ("hidden", "hidden"), "static", few, True)),
        Case("fp8_linear", "a known scale, 300 rows", partial(_fp8, ("hidden", "hidden"), "static", some, True)),
        Case("fp8_gated_linear", "rows, 8 rows", partial(_fp8_gated, "rows", few)),
        Case("fp8_gated_linear", "a known scale, 300 rows", partial(_fp8_gated, "static", some)),
        Case("w4a16_linear", "groups of 32, float16", partial(_w4a16, few, 32, False, F16)),
        Case("w4a16_linear", "groups of 64, 300 rows", partial(_w4a16, some, 64, False, BF16)),
        Case("logits", "Llama, 1 row", partial(_logits, "llama", None, one)),
        Case("logits", "Qwen, 64 rows", partial(_logits, "qwen", None, ROWS[4])),
        Case("logits", "Gemma, softcap, 8 rows", partial(_logits, "gemma", 30.0, few)),
        Case("likeliest_of", "Llama, 1 row", partial(_likeliest, "llama", one)),
        Case("likeliest_of", "Qwen, 300 rows", partial(_likeliest, "qwen", some)),
        Case("likeliest_of", "Gemma, 8 rows", partial(_likeliest, "gemma", few)),
    ]
    return found
