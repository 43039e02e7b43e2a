"""8-bit floating point, e4m3: activations rounded as they come, and products with weights that a checkpoint holds so.

Law: a scale is shared by numbers of one row only, so a row's result never depends on its neighbours. A checkpoint that
wants one dynamic scale for all activations of a step gets one for each token, which is finer; a static scale stands in
the checkpoint and is the same for everyone.

Weights come with one of two kinds of float32 scales, told apart by their dimensions:

* rows, [N]: one for each output feature. One scale for a whole tensor is this, repeated.
* blocks, [ceil(N / 128), ceil(K / 128)]: one for each square of 128 x 128; the last ones may be smaller.

Source of the format: Micikevicius et al. 2022; of blocks: DeepSeek-AI 2024 (DeepSeek-V3), 3.3.
"""

import torch
from torch import Tensor

from quire.kernels.ops.linear import Activation, gate, linear
from quire.kernels.ops.registry import op

FP8 = torch.float8_e4m3fn
GREATEST = 448.0
"""Of e4m3. Greater numbers are clipped: the format has no infinity, and would give NaN."""
BLOCK = 128
"""Of a scale of blocks; and of the activations that meet it, features that share a scale."""
_LEAST_GREATEST = 1e-10
"""What zeros are quantized by: its scale is no denormal, and divides."""


@op
def quantize_fp8(x: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
    """Round rows to e4m3 with dynamic scales: x [T, K] of any float dtype -> numbers [T, K], scales float32.

    ``group`` None: a scale for each row, [T, 1]. Else one for each ``group`` features, [T, ceil(K / group)], the last
    group may be shorter. A scale is the greatest magnitude / 448, and a number x * (1 / scale), in float32, to the
    nearest, ties to even. Rows of x may be strided; T may be 0. Results are contiguous.
    """
    num_rows, width = x.shape
    size = group or width
    groups = torch.nn.functional.pad(x.float(), (0, -width % size)).view(num_rows, -(-width // size), size)
    scale = groups.abs().amax(-1).clamp_min(_LEAST_GREATEST) / GREATEST
    numbers = _rounded(groups * (1.0 / scale)[..., None]).flatten(1)[:, :width]
    return numbers.contiguous(), scale


@op
def quantize_fp8_static(x: Tensor, scale: Tensor) -> Tensor:
    """Round x [T, K] of any float dtype to e4m3 by a scale that is known, [1] float32: x * (1 / scale), clipped."""
    return _rounded(x.float() * (1.0 / scale)).contiguous()


@op
def fp8_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    input_scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """As ``linear``, of activations rounded to e4m3 and a weight [N, K] in it, contiguous: x [T, K] -> [T, N].

    ``weight_scale``: rows or blocks, see above, float32, contiguous. With rows, activations are rounded by
    ``input_scale`` [1] float32, or where it is None by a scale for each token; with blocks by one for each 128
    features of a token, and ``input_scale`` must be None. x, bias [N], residual [T, N] are of one float dtype, and so
    is the result. Products of numbers are summed in float32 and scaled, rows at the end, blocks block by block; bias
    and residual are added to that, and the result is rounded once. K is a multiple of 16. T may be 0; rows of x and
    residual may be strided. Batch invariant.
    """
    is_blocks = weight_scale.dim() == 2
    assert not is_blocks or input_scale is None
    if input_scale is not None:
        rounded = quantize_fp8_static.reference(x, input_scale).float() * input_scale
    else:
        rounded = dequantize_fp8(*quantize_fp8.reference(x, BLOCK if is_blocks else None))
    y = linear(rounded, dequantize_fp8_weight(weight, weight_scale))
    return finished(y, x.dtype, bias, residual)


@op
def fp8_gated_linear(
    x: Tensor, weight: Tensor, weight_scale: Tensor, activation: Activation, input_scale: Tensor | None = None
) -> Tensor:
    """activation(x G^T) * (x U^T) for weight [2F, K] = [G; U], both as of ``fp8_linear``: [T, K] -> [T, F].

    With scales in blocks, F is a multiple of 128. Gates and ups are rounded to x's dtype before they meet, or not.
    """
    return gate(fp8_linear.reference(x, weight, weight_scale, input_scale), activation)


def dequantize_fp8(numbers: Tensor, scale: Tensor) -> Tensor:
    """What ``quantize_fp8`` made, [T, K] and [T, groups], as float32."""
    return numbers.float() * _repeated(scale, numbers.shape[1], BLOCK)


def dequantize_fp8_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """A weight [..., N, K] with scales of rows [..., N] or of blocks [..., N / 128, K / 128], as float32.

    Which of the two is told by the number of dimensions.
    """
    if scale.dim() == weight.dim() - 1:
        return weight.float() * scale[..., None]
    rows, columns = weight.shape[-2:]
    wide = _repeated(scale, columns, BLOCK).repeat_interleave(BLOCK, -2)[..., :rows, :]
    return weight.float() * wide


def finished(y: Tensor, dtype: torch.dtype, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """y [T, N] float32, plus bias and residual, rounded once."""
    if bias is not None:
        y = y + bias.float()
    return (y if residual is None else y + residual.float()).to(dtype)


def _rounded(x: Tensor) -> Tensor:
    return x.clamp(-GREATEST, GREATEST).to(FP8)


def _repeated(scale: Tensor, width: int, group: int) -> Tensor:
    """[..., ceil(width / group)] -> [..., width]; one scale for all stays one."""
    return scale if scale.shape[-1] == 1 else scale.repeat_interleave(group, -1)[..., :width]
