"""Normalisation operators."""

import torch
from torch import Tensor

from quire.kernels.ops.registry import op


@op
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row by its root mean square and multiply by ``weight``; float32 inside, rounded once.

    x [..., E] any float dtype, may be strided; weight [E], any float dtype. Returns contiguous [..., E] in x's dtype.
    Source: Zhang & Sennrich 2019, eq. 4.
    """
    wide = x.contiguous().float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)
