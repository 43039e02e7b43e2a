"""Keys and values as 8-bit integers: each token's of each head with a scale of its own.

Keys are mixed before, by an orthogonal matrix, and so are the queries that meet them: products stay what they are, but
no feature is much greater than the others, and it is the greatest that decides how fine the steps are. (In real models'
keys it is 4 to 11 times the usual one; mixed, some 3 times. Values need none of this.)

Source of mixing: Ashkboos et al. 2024 (QuaRot).
"""

import torch
from torch import Tensor

SCALE_BYTES = 4
"""Of the float32 behind a token's numbers."""

_LEAST_GREATEST = 1e-30
"""What a vector of zeros is quantized by: its scale is no denormal, and divides."""

MOST_MIXED = 1e30
"""Keys are clipped to this magnitude before they are mixed: sums of a head's features have room."""


def quantize(x: Tensor) -> Tensor:
    """Finite x [..., D] as int8 [..., D + SCALE_BYTES]: numbers, and behind them the bytes of their float32 scale.

    The scale is max|x| / 127; numbers are x / scale to the nearest, ties to even.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(_LEAST_GREATEST) / 127
    return torch.cat(((wide / scale).round().to(torch.int8), scale.view(torch.int8)), -1)


def dequantize(stored: Tensor) -> Tensor:
    """What quantize made, [..., D + SCALE_BYTES], as float32 [..., D]."""
    numbers, scale = stored[..., :-SCALE_BYTES], stored[..., -SCALE_BYTES:]
    return numbers.float() * scale.contiguous().view(torch.float32)


def mix(x: Tensor) -> Tensor:
    """Hadamard's transform of x [..., D], in float32: of each run of n features, n the largest power of two in D.

    log2 n rounds of sums and differences of features 1, 2, 4, ... apart, then a product by n^-1/2.
    """
    run, x, apart = x.shape[-1] & -x.shape[-1], x.float(), 1
    while apart < run:
        a, b = x.reshape(*x.shape[:-1], x.shape[-1] // (2 * apart), 2, apart).unbind(-2)
        x, apart = torch.stack((a + b, a - b), -2).flatten(-3), apart * 2
    return torch.mul(x, run**-0.5)
