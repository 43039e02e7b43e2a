"""Angles on a CUDA device: one launch where torch takes five.

Contract: an element's bits depend on the element alone. cos and sin are the accurate ones of CUDA's library, good for
angles of any size; the angle is rounded to float32 first, as the reference rounds it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quire.kernels.ops.rotary import angles
from quire.kernels.triton.variant import Variant, blank


@triton.jit
def _angles(positions, inv_freq, cos, sin, factor, half, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    feature = tl.arange(0, BLOCK)
    inside = feature < half
    angle = tl.load(positions + row).to(tl.float32) * tl.load(inv_freq + feature, inside, other=0.0)
    tl.store(cos + row * half + feature, tl.cos(angle) * factor, inside)
    tl.store(sin + row * half + feature, tl.sin(angle) * factor, inside)


@angles.on("cuda")
def turn_angles(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """See angles."""
    half = len(inv_freq)
    cos, sin = torch.empty((2, len(positions), half), dtype=torch.float32, device=positions.device)
    if len(positions):
        block = triton.next_power_of_2(half)
        _angles[(len(positions),)](positions, inv_freq, cos, sin, float(factor), half, BLOCK=block, num_warps=2)
    return cos, sin


VARIANTS = [
    Variant(
        "128 features",
        lambda: turn_angles(blank(64, dtype=torch.int64), blank(64, dtype=torch.float32), 1.0),
    )
]
