"""Checkpoints in 8-bit floating point: weights as they are stored, activations rounded as they come.

Two schemes: a scale for each square of 128 x 128 weights, and one for each output feature or for a whole tensor. Also
the configuration of ``quant_method`` fp8, which names either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, FP8, fp8_gated_linear, fp8_linear
from quire.kernels.ops.linear import Activation
from quire.kernels.ops.moe import experts_mlp
from quire.model.fields import Fields
from quire.model.quantization.method import Side, Weight, unsupported
from quire.model.quantization.ruled import Ruled, Scheme, names_match, side_by_side
from quire.model.weights.cursor import Part, Stack, pull_fused, pull_stacked
from quire.model.weights.source import Shape


@dataclass(frozen=True)
class Fp8Weight:
    """A weight in e4m3, with scales of rows or of blocks."""

    weight: Tensor
    """[out, in]."""
    scale: Tensor
    """Float32: [out], or [out / 128, in / 128], rounded up."""
    input_scale: Tensor | None = None
    """[1] float32; None: activations' scales are found as they come."""

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        return fp8_linear(x, self.weight, self.scale, self.input_scale, bias, residual)

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See GatingWeight.gated."""
        return fp8_gated_linear(x, self.weight, self.scale, activation, self.input_scale)


@dataclass(frozen=True)
class Fp8Experts:
    """Experts in e4m3; activations' scales are found as they come."""

    gate_up: Tensor
    """[experts, 2F, E], gates first."""
    gate_up_scale: Tensor
    down: Tensor
    """[experts, E, F]."""
    down_scale: Tensor

    def mix(self, x: Tensor, weights: Tensor, experts: Tensor, residual: Tensor | None = None) -> Tensor:
        """See Experts.mix."""
        return experts_mlp(
            x,
            self.gate_up,
            self.down,
            weights,
            experts,
            gate_up_scale=self.gate_up_scale,
            down_scale=self.down_scale,
            residual=residual,
        )


@dataclass(frozen=True)
class Fp8Blocks:
    """A scale for each square of weights, in the tensor ``scale_name``; activations by groups of 128 features."""

    scale_name: str

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        if any(part.out_features % BLOCK for part in parts[:-1]):  # squares would reach over two parts
            return side_by_side([self.load([part], side) for part in parts])
        check_width(parts)
        scale = pull_fused(parts, self.scale_name, _squares, cut=None, dtype=torch.float32)
        return Fp8Weight(pull_fused(parts, "weight", _whole, cut=None, dtype=FP8), scale)

    def experts(self, stack: Stack) -> Fp8Experts:
        """See Method.experts."""
        if stack.intermediate_size % BLOCK:
            raise unsupported(
                f"The experts under {stack.at.path} have {stack.intermediate_size} hidden features, no multiple of "
                f"{BLOCK}, and are quantized in squares of so many."
            )
        return _stacked(stack, self.scale_name, _squares)


@dataclass(frozen=True)
class Fp8Rows:
    """A scale for each output feature, or for the tensor; activations by a scale for each token, or a static one.

    A checkpoint that wants one dynamic scale for all tokens of a step gets one for each: an answer depends on nobody
    else's.
    """

    is_per_tensor: bool
    is_static: bool

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        check_width(parts)
        input_scale = pull_input_scale(parts) if self.is_static else None
        if self.is_static and input_scale is None:
            return side_by_side([self.load([part], side) for part in parts])
        weight = pull_fused(parts, "weight", _whole, cut=None, dtype=FP8)
        return Fp8Weight(weight, pull_row_scales(parts, is_per_tensor=self.is_per_tensor), input_scale)

    def experts(self, stack: Stack) -> Fp8Experts:
        """See Method.experts."""
        if self.is_static or self.is_per_tensor:
            raise unsupported(
                f"The experts under {stack.at.path} have one scale for a tensor, or a static one for activations; "
                "implemented for experts are scales of rows and of blocks, and dynamic ones."
            )
        experts = _stacked(stack, "weight_scale", _column)
        scales = experts.gate_up_scale.squeeze(-1), experts.down_scale.squeeze(-1)
        return replace(experts, gate_up_scale=scales[0], down_scale=scales[1])


def fp8(config: Fields) -> Ruled:
    """The method of a ``quantization_config`` with quant_method fp8."""
    if (form := config.text("fmt", "e4m3")) not in ("e4m3", "float8_e4m3fn"):
        raise unsupported(f"The checkpoint's fp8 format is {form!r}; implemented is e4m3.")
    activations = config.text("activation_scheme", "dynamic")
    if activations not in ("dynamic", "static"):
        raise unsupported(f"The checkpoint's activation_scheme is {activations!r}; implemented are dynamic and static.")
    block = config.integers("weight_block_size")
    scheme: Scheme
    if block:
        if block != [BLOCK, BLOCK] or activations != "dynamic":
            raise unsupported(
                f"The checkpoint is quantized in blocks of {block} with {activations} activations; implemented are "
                f"blocks of [{BLOCK}, {BLOCK}] with dynamic ones."
            )
        scheme = Fp8Blocks("weight_scale_inv")
    else:
        scheme = Fp8Rows(is_per_tensor=True, is_static=activations == "static")
    is_left_out = names_match(["lm_head", *config.names("modules_to_not_convert"), *config.names("ignored_layers")])
    return Ruled(lambda name: None if is_left_out(name) else scheme)


def pull_row_scales(parts: Sequence[Part], *, is_per_tensor: bool) -> Tensor:
    """``weight_scale`` of every part, one below the other, [out] float32; a tensor's one scale is repeated."""
    if not is_per_tensor:
        return pull_fused(parts, "weight_scale", _column, cut=None, dtype=torch.float32).flatten()
    scales = [part.at.pull("weight_scale", (1,), dtype=torch.float32) for part in parts]
    return torch.cat([scale.expand(part.out_features) for part, scale in zip(parts, scales, strict=True)])


def pull_input_scale(parts: Sequence[Part]) -> Tensor | None:
    """The static ``input_scale`` that all parts share, [1] float32; None where they differ."""
    first, *others = (part.at.pull("input_scale", (1,), dtype=torch.float32) for part in parts)
    return first if all(torch.equal(first, other) for other in others) else None


def check_width(parts: Sequence[Part]) -> None:
    """Raise UnsupportedModel where products of 8-bit numbers cannot have these inputs."""
    assert parts[0].at.group.size == 1, "quantized linears are not cut yet"
    if parts[0].in_features % 16:
        raise unsupported(f"{parts[0].at.path} has {parts[0].in_features} inputs; of 8 bits, they must be in sixteens.")


def _stacked(stack: Stack, scale_name: str, scale_shape: Callable[[Part], Shape]) -> Fp8Experts:
    check_width([*stack.wide(0)])
    check_width([stack.down(0)])
    wide = [stack.wide(index) for index in range(stack.num_experts)]
    down = [[stack.down(index)] for index in range(stack.num_experts)]
    return Fp8Experts(
        pull_stacked(wide, "weight", _whole, cut=None, dtype=FP8),
        pull_stacked(wide, scale_name, scale_shape, cut=None, dtype=torch.float32),
        pull_stacked(down, "weight", _whole, cut=None, dtype=FP8),
        pull_stacked(down, scale_name, scale_shape, cut=None, dtype=torch.float32),
    )


def _whole(part: Part) -> Shape:
    return part.shape


def _column(part: Part) -> Shape:
    return part.out_features, 1


def _squares(part: Part) -> Shape:
    return -(-part.out_features // BLOCK), -(-part.in_features // BLOCK)
