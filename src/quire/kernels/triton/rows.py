"""Picking rows on a CUDA device: those of a batch that are asked for, and a vocabulary's vectors.

Contract: a program copies one stretch of one row, whose bits do not change unless there is a scale; then they are
multiplied in float32 and rounded once. Row ids are int64 and must be valid.

Bound: memory, one read and one write.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.rows import take_rows
from quire.kernels.ops.vocabulary import embedding
from quire.kernels.triton.tuning import ELEMENTS
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _gather(table, rows, out, size, stride, scale, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(table + tl.load(rows + place).to(tl.int64) * stride + column, inside)
    if scale is not None:
        value = (value.to(tl.float32) * scale).to(out.dtype.element_ty)
    tl.store(out + place * size + column, value, inside)


def in_rows(x: Tensor) -> Tensor:
    """x [T, K] with its rows' elements side by side."""
    return x if x.stride(1) == 1 else x.contiguous()


@take_rows.on("cuda")
def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """See take_rows. Negative ids are no rows."""
    whole = x if x.dim() == 2 and x.stride(1) == 1 else x.contiguous().view(len(x), -1)
    return _launch(whole, rows, None).view(len(rows), *x.shape[1:])


@embedding.on("cuda")
def embed(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """See embedding."""
    return _launch(table, ids, None if scale == 1 else scale)


def _launch(table: Tensor, rows: Tensor, scale: float | None) -> Tensor:
    num_rows, size = len(rows), table.shape[1]
    out = torch.empty((num_rows, size), dtype=table.dtype, device=table.device)
    if out.numel():
        block, num_warps = ELEMENTS
        grid = (num_rows, triton.cdiv(size, block))
        _gather[grid](table, rows, out, size, table.stride(0), scale, BLOCK=block, num_warps=num_warps)
    return out


def _ids(num_rows: int) -> Tensor:
    return blank(num_rows, dtype=torch.int64)


VARIANTS = [
    Variant("bfloat16", lambda: embed(_ids(64), blank(128256, 4096), 1.0), {"_gather": {"LDG.128": 1, "STG.128": 1}}),
    Variant("bfloat16, scaled", lambda: embed(_ids(64), blank(262144, 2560), 50.5), {"_gather": {"LDG.128": 1}}),
    Variant(
        "float32", lambda: gather_rows(blank(512, 4096, dtype=torch.float32), _ids(64)), {"_gather": {"LDG.128": 1}}
    ),
]
