"""8-bit integers for weights and activations: products are exact, and cost half of bfloat16's.

Law: a scale of activations belongs to one token, or stands in the checkpoint, so that a row's result never depends on
its neighbours. Numbers are symmetric: zero is zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.fp8 import finished
from quire.kernels.ops.registry import op

GREATEST_INT8 = 127
_LEAST_GREATEST = 1e-10
"""What zeros are quantized by: its scale is no denormal, and divides."""


@op
def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to int8: x [T, K] of any float dtype -> numbers [T, K], scales [T, 1] float32.

    A scale is the row's greatest magnitude / 127, and a number x * (1 / scale), in float32, to the nearest, ties to
    even. Rows of x may be strided; T may be 0. Results are contiguous.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(_LEAST_GREATEST) / GREATEST_INT8
    return _rounded(wide * (1.0 / scale)), scale


@op
def quantize_int8_static(x: Tensor, scale: Tensor) -> Tensor:
    """Round x [T, K] of any float dtype to int8 by a scale that is known, [1] float32: x * (1 / scale), clipped."""
    return _rounded(x.float() * (1.0 / scale))


@op
def w8a8_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    input_scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """As ``linear``, of activations rounded to int8 and an int8 weight [N, K], contiguous: x [T, K] -> [T, N].

    ``weight_scale`` [N] float32, one for each output feature (one for a whole tensor is this, repeated).
    ``input_scale`` [1] float32; None: one for each token. Integers are summed exactly, in int32; then
    (sum * input scale) * weight scale in float32, plus bias [N] and residual [T, N], rounded once to x's dtype. K is a
    multiple of 16, and at most 2^17. T may be 0; rows of x and residual may be strided. Batch invariant.
    """
    if input_scale is not None:
        numbers, scale = quantize_int8_static.reference(x, input_scale), input_scale
    else:
        numbers, scale = quantize_int8.reference(x)
    sums = F.linear(numbers.double(), weight.double())  # below 2^53, so exact in any order
    return finished(sums.float() * scale * weight_scale, x.dtype, bias, residual)


def _rounded(x: Tensor) -> Tensor:
    return x.round().clamp(-GREATEST_INT8, GREATEST_INT8).to(torch.int8)
