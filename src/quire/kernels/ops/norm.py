"""Normalisation operators."""

import torch
from torch import Tensor

from quire.kernels.ops.registry import op


@op
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """Divide each row by its root mean square, multiply by ``weight``, and add ``residual`` if given; float32 inside.

    x [..., E] any float dtype, may be strided; weight [E], any float dtype; residual like x. Returns contiguous
    [..., E] in x's dtype, rounded once, or before the addition too.
    Source: Zhang & Sennrich 2019, eq. 4.
    """
    wide = x.contiguous().float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    normed = (wide * scale * weight.float()).to(x.dtype)
    return normed if residual is None else residual + normed
