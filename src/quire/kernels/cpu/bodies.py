"""What each operator appends to a program: the native body of every operator that models call.

Each computes nothing: it makes room for the result, appends the native operator, and
returns the recorded result. Contracts are the operators' own; those of the native ones stand in ``csrc/quire.h``.
"""

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor

from quire.kernels.cpu.library import Output
from quire.kernels.cpu.program import DTYPES, CannotRecord, Program, Recorded, stride
from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.ops.attention import paged_attention
from quire.kernels.ops.heads import HeadNorms, store_heads
from quire.kernels.ops.norm import rms_norm
from quire.kernels.ops.packed import (
    PackedMatrix,
    packed_embedding,
    packed_likeliest,
    packed_linear,
    packed_logits,
)
from quire.kernels.ops.rotary import angles
from quire.kernels.ops.rows import take_rows

_SILU, _GELU_TANH = 0, 1

_PAGE_DTYPES: Mapping[torch.dtype, int] = MappingProxyType({**DTYPES, torch.int8: 2})
"""What keys and values may be, by the header's numbers."""


def recorded(x: Tensor) -> Recorded:
    """x, which must be recorded, of a dtype the kernels compute in."""
    if not isinstance(x, Recorded) or (x.is_floating_point() and x.dtype not in DTYPES):
        raise CannotRecord(
            f"a tensor of {x.dtype} cannot be recorded: the native kernels compute in float32 and bfloat16"
        )
    return x


def stored(
    program: Program, y: Recorded, bias: Tensor | None, residual: Tensor | None, softcap: float | None
) -> Output:
    """A product's output that is written to ``y``."""
    output = Output()
    output.kind, output.dtype = Output.STORE, DTYPES[y.dtype]
    output.y, output.y_stride = y.data_ptr(), stride(y)
    output.softcap = softcap or 0.0
    if bias is not None:
        program.keep(bias)
        output.bias = bias.data_ptr()
    if residual is not None:
        output.residual, output.residual_stride = residual.data_ptr(), stride(residual)
    return output


def best(program: Program, ids: Recorded, num_out: int, softcap: float | None) -> Output:
    """A product's output of which only each row's greatest is kept, in ``ids``."""
    tiles = -(-num_out // program.library.tile_width)
    output = Output()
    output.kind, output.softcap = Output.LIKELIEST, softcap or 0.0
    output.ids = ids.data_ptr()
    output.workspace = program.empty(ids.rows, (tiles,), torch.int64).data_ptr()
    return output


@rms_norm.on("program")
def _rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    x = recorded(x)
    wide = weight.float().contiguous()
    x.program.keep(wide)
    y = x.program.empty(x.rows, x.shape[1:], x.dtype)
    beside = (residual, stride(residual)) if residual is not None else (None, 0)
    x.program.append(
        "quire_rms_norm", x.rows, x, stride(x), x.shape[1], wide, eps, *beside, DTYPES[x.dtype], y, stride(y)
    )
    return y


def _gated(x: Tensor, activation: int) -> Tensor:
    x = recorded(x)
    size = x.shape[1] // 2
    y = x.program.empty(x.rows, (size,), x.dtype)
    x.program.append("quire_gated", x.rows, x, stride(x), size, activation, DTYPES[x.dtype], y, stride(y))
    return y


@silu_and_mul.on("program")
def _silu_and_mul(x: Tensor) -> Tensor:
    return _gated(x, _SILU)


@gelu_tanh_and_mul.on("program")
def _gelu_tanh_and_mul(x: Tensor) -> Tensor:
    return _gated(x, _GELU_TANH)


@take_rows.on("program")
def _take_rows(x: Tensor, rows: Tensor) -> Tensor:
    x, rows = recorded(x), recorded(rows)
    y = x.program.empty(rows.rows, x.shape[1:], x.dtype)
    size = prod(x.shape[1:])
    x.program.append("quire_take_rows", rows.rows, x, stride(x), rows, size, DTYPES[x.dtype], y, stride(y))
    return y


@packed_linear.on("program")
def _packed_linear(
    x: Tensor, weight: PackedMatrix, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    x = recorded(x)
    y = x.program.empty(x.rows, (weight.num_out,), x.dtype)
    _product(x, weight, stored(x.program, y, bias, residual, None))
    return y


@packed_logits.on("program")
def _packed_logits(x: Tensor, table: PackedMatrix, softcap: float | None) -> Tensor:
    x = recorded(x)
    y = x.program.empty(x.rows, (table.num_out,), torch.float32)
    _product(x, table, stored(x.program, y, None, None, softcap))
    return y


@packed_likeliest.on("program")
def _packed_likeliest(x: Tensor, table: PackedMatrix, softcap: float | None) -> Tensor:
    x = recorded(x)
    ids = x.program.empty(x.rows, (), torch.int32)
    _product(x, table, best(x.program, ids, table.num_out, softcap))
    return ids


def _product(x: Recorded, weight: PackedMatrix, output: Output) -> None:
    if weight.dtype != x.dtype or weight.tile_width != x.program.library.tile_width:
        raise CannotRecord(f"a weight of {weight.dtype}, packed by {weight.tile_width}, for activations of {x.dtype}")
    x.program.keep(weight.data)
    x.program.append(
        "quire_linear", x.rows, x, stride(x), weight.data, weight.num_out, weight.num_in, DTYPES[x.dtype], output
    )


@packed_embedding.on("program")
def _packed_embedding(ids: Tensor, table: PackedMatrix, scale: float) -> Tensor:
    ids = recorded(ids)
    y = ids.program.empty(ids.rows, (table.num_in,), table.dtype)
    ids.program.keep(table.data)
    ids.program.append(
        "quire_embed", ids.rows, ids, table.data, table.num_out, table.num_in, DTYPES[table.dtype], scale, y, stride(y)
    )
    return y


@angles.on("program")
def _angles(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    positions = recorded(positions)
    half = inv_freq.shape[0]
    positions.program.keep(inv_freq)
    cos, sin = (positions.program.empty(positions.rows, (half,), torch.float32) for _ in range(2))
    positions.program.append("quire_angles", positions.rows, positions, inv_freq, half, factor, cos, sin)
    return cos, sin


@store_heads.on("program")
def _store_heads(
    qkv: Tensor,
    num_heads: int,
    norms: HeadNorms | None,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    qkv = recorded(qkv)
    program, size = qkv.program, qkv.shape[2]
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    q_norm = k_norm = None
    if norms is not None:
        q_norm, k_norm = norms.q.float().contiguous(), norms.k.float().contiguous()
        program.keep((q_norm, k_norm))
    program.keep((key_cache, value_cache))
    q = program.empty(qkv.rows, (num_heads, size), qkv.dtype)
    program.append(
        "quire_store_heads", qkv.rows, qkv, stride(qkv), num_heads, num_kv_heads, size, q_norm, k_norm,
        norms.eps if norms is not None else 0.0, cos, sin, slot_mapping, key_cache, value_cache,
        _block_size(key_cache), DTYPES[qkv.dtype], q, stride(q), _PAGE_DTYPES[key_cache.dtype],
    )  # fmt: skip
    return q


@paged_attention.on("program")
def _paged_attention(
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
    q = recorded(q)
    _, num_heads, size = q.shape
    y = q.program.empty(q.rows, (num_heads, size), q.dtype)
    q.program.append(
        "quire_attention", q, stride(q), key_cache, value_cache, block_tables, stride(block_tables), query_starts,
        context_lens, num_heads, key_cache.shape[1], size, _block_size(key_cache), scale, sliding_window or 0,
        softcap or 0.0, DTYPES[q.dtype], y, stride(y), _PAGE_DTYPES[key_cache.dtype],
    )  # fmt: skip
    return y


def _block_size(key_cache: Tensor) -> int:
    """Keys are [N, K, D / g, B, g], or [N, K, D + SCALE_BYTES, B] of int8."""
    return key_cache.shape[3]
