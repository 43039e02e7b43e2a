"""RMS norm on a CUDA device.

Contract: a program norms one row, held in registers; a row is read once and written once. The mean of squares is summed
in float32 over a block that depends on the row's length alone, so a row has the same bits in any company. The norm is
rounded to x's dtype before a residual is added, as the reference rounds it.

Bound: memory, one read of x (and of the residual) and one write.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.norm import rms_norm
from quire.kernels.triton.tuning import row_tile
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _rms_norm(x, weight, residual, out, size, stride, inner, inner_stride, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    start = row // inner * stride + row % inner * inner_stride
    wide = tl.load(x + start + column, inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    normed = (wide * scale * tl.load(weight + column, inside, other=0.0).to(tl.float32)).to(out.dtype.element_ty)
    if residual is not None:
        added = tl.load(residual + row * size + column, inside, other=0.0).to(tl.float32)
        normed = (added + normed.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + row * size + column, normed, inside)


@rms_norm.on("cuda")
def norm_rows(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """See rms_norm. Rows may be strided: of [T, E], or the heads of [T, H, D]; other layouts are copied."""
    size = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    if x.dim() not in (2, 3) or x.stride(-1) != 1:
        x = x.contiguous()
    stride, inner, inner_stride = _rows(x)
    tile = row_tile(size)
    grid = (out.numel() // size,)
    residual = None if residual is None else residual.contiguous()
    _rms_norm[grid](
        x, weight, residual, out, size, stride, inner, inner_stride, eps, BLOCK=tile.block, num_warps=tile.num_warps
    )
    return out


def _rows(x: Tensor) -> tuple[int, int, int]:
    """Where row r begins: r // inner * stride + r % inner * inner_stride."""
    if x.is_contiguous() or x.dim() == 2:
        return (x.shape[-1] if x.is_contiguous() else x.stride(0)), 1, 0
    return x.stride(0), x.shape[1], x.stride(1)


def _variant(dtype: torch.dtype, size: int, *, has_residual: bool = False) -> Variant:
    def call() -> Tensor:
        x = blank(64, size, dtype=dtype)
        return norm_rows(x, blank(size, dtype=dtype), 1e-6, x if has_residual else None)

    name = f"{dtype}, {size}{', residual' * has_residual}".removeprefix("torch.")
    width = 128 if size > 128 else 64
    return Variant(name, call, {"_rms_norm": {f"LDG.{width}": 2, f"STG.{width}": 1}})


VARIANTS = [
    _variant(torch.bfloat16, 128),
    _variant(torch.bfloat16, 4096, has_residual=True),
    _variant(torch.bfloat16, 5120),
    _variant(torch.float32, 4096),
]
