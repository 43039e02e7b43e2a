"""8-bit integers for weights and activations, with a scale for each output feature and for each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.ops.w8a8 import w8a8_linear
from quire.model.quantization.fp8 import check_width, pull_input_scale, pull_row_scales
from quire.model.quantization.method import Experts, Side, Weight, unsupported
from quire.model.quantization.ruled import side_by_side
from quire.model.weights.cursor import Part, Stack, pull_fused


@dataclass(frozen=True)
class Int8Weight:
    """A weight of int8."""

    weight: Tensor
    """[out, in]."""
    scale: Tensor
    """[out] float32."""
    input_scale: Tensor | None
    """[1] float32; None: one for each token, found as it comes."""

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        return w8a8_linear(x, self.weight, self.scale, self.input_scale, bias, residual)


@dataclass(frozen=True)
class Int8Rows:
    """A scale for each output feature, or for the tensor; activations by a scale for each token, or a static one."""

    is_per_tensor: bool
    is_static: bool

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        check_width(parts)
        input_scale = pull_input_scale(parts) if self.is_static else None
        if self.is_static and input_scale is None:
            return side_by_side([self.load([part], side) for part in parts])
        weight = pull_fused(parts, "weight", lambda part: part.shape, cut=None, dtype=torch.int8)
        for part in parts:
            part.at.skip("weight_zero_point")  # zeros, where they are stored at all
            part.at.skip("input_zero_point")
        return Int8Weight(weight, pull_row_scales(parts, is_per_tensor=self.is_per_tensor), input_scale)

    def experts(self, stack: Stack) -> Experts:
        """Raises UnsupportedModel."""
        raise unsupported(f"The experts under {stack.at.path} are quantized to int8; implemented for experts is fp8.")
