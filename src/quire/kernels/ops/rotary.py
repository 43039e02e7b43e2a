"""Rotary position embedding in the half-split layout: feature i turns with feature i + D/2. Source: Su et al. 2021."""

import torch
from torch import Tensor

from quire.kernels.ops.registry import op


@op
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head of a token by the token's angles; float32 inside.

    x [T, H, D], may be strided; cos, sin [T, D/2] float32. Returns contiguous [T, H, D] in x's dtype.
    """
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


@op
def angles(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """cos and sin of each position's angles, times ``factor``.

    positions [T] int64, inv_freq [D/2] float32; returns two [T, D/2] float32. The product that makes an angle is
    rounded to float32, as it was when models were trained.
    """
    turned = positions[:, None].float() * inv_freq
    return turned.cos() * factor, turned.sin() * factor
