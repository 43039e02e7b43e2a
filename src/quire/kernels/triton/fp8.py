"""Products in e4m3 and in int8 on a CUDA device.

Contract: as ``fp8_linear``, ``fp8_gated_linear`` and ``w8a8_linear``. Activations are rounded by a kernel of their own,
or, where few of them meet scales in blocks or a static one, on the way to the product. Up to THIN_ROWS rows and above,
the order of a sum differs; in each regime a row's bits do not depend on its company. Above, e4m3 is summed with some 14
bits within 128 features.

Bound: up to 64 rows the reading of the weight, above that the tensor cores: 1979 TFLOP/s in the data sheet.
"""

import torch
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, FP8, fp8_gated_linear, fp8_linear
from quire.kernels.ops.linear import Activation, gate
from quire.kernels.ops.w8a8 import w8a8_linear
from quire.kernels.triton.matmul import multiply, multiply_gated
from quire.kernels.triton.product_tiles import THIN_ROWS
from quire.kernels.triton.quantize import round_fp8, round_fp8_static, round_int8, round_int8_static
from quire.kernels.triton.variant import Variant, blank

ROUNDED_ON_THE_WAY = 8
"""Up to so many rows, every program can afford to round all of them."""


@fp8_linear.on("cuda")
def multiply_fp8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    input_scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See fp8_linear."""
    kind = _kind(weight_scale)
    rounded, x_scale = _rounded(x, kind, input_scale)
    return multiply(rounded, weight, kind, x.dtype, x_scale, weight_scale, bias, residual)


@fp8_gated_linear.on("cuda")
def multiply_fp8_gates(
    x: Tensor, weight: Tensor, weight_scale: Tensor, activation: Activation, input_scale: Tensor | None = None
) -> Tensor:
    """See fp8_gated_linear."""
    if len(x) > THIN_ROWS:
        return gate(multiply_fp8(x, weight, weight_scale, input_scale), activation)
    kind = _kind(weight_scale)
    rounded, x_scale = _rounded(x, kind, input_scale)
    return multiply_gated(rounded, weight, kind, x.dtype, activation, x_scale, weight_scale)


@w8a8_linear.on("cuda")
def multiply_int8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    input_scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See w8a8_linear."""
    if input_scale is None:
        rounded, x_scale = round_int8(x)
    else:
        rounded, x_scale = x if len(x) <= ROUNDED_ON_THE_WAY else round_int8_static(x, input_scale), input_scale
    return multiply(rounded, weight, "rows", x.dtype, x_scale, weight_scale, bias, residual)


def _kind(weight_scale: Tensor) -> str:
    return "blocks" if weight_scale.dim() == 2 else "rows"


def _rounded(x: Tensor, kind: str, input_scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x in e4m3 and its scales; or as it is, where a product rounds it on the way."""
    is_on_the_way = len(x) <= ROUNDED_ON_THE_WAY
    if kind == "blocks":
        return (x, None) if is_on_the_way else round_fp8(x, BLOCK)
    if input_scale is None:
        return round_fp8(x)
    return x if is_on_the_way else round_fp8_static(x, input_scale), input_scale


def _call(num_rows: int, num_out: int, num_in: int, kind: str) -> object:
    x, dtype = blank(num_rows, num_in), torch.int8 if kind == "int8" else FP8
    shape = (-(-num_out // BLOCK), num_in // BLOCK) if "blocks" in kind else (num_out,)
    weight, scale = blank(num_out, num_in, dtype=dtype), blank(*shape, dtype=torch.float32)
    if kind == "blocks, gated":
        return multiply_fp8_gates(x, weight, scale, "silu")
    given = blank(1, dtype=torch.float32) if kind == "static" else None
    return (multiply_int8 if kind == "int8" else multiply_fp8)(x, weight, scale, given, None, blank(num_rows, num_out))


def _variant(num_rows: int, num_out: int, num_in: int, kind: str, expects: dict[str, dict[str, int]]) -> Variant:
    name = f"{kind}, {num_rows} x {num_out} x {num_in}"
    return Variant(name, lambda: _call(num_rows, num_out, num_in, kind), expects)


_THIN = {"_thin": {"LDGSTS.128": 10}}
VARIANTS = [
    _variant(1, 4096, 4096, "blocks", _THIN),
    _variant(8, 28672, 4096, "blocks", _THIN),
    _variant(32, 4096, 14336, "blocks", _THIN),
    _variant(8, 28672, 4096, "blocks, gated", {"_thin_gated": {"LDGSTS.128": 10}}),
    _variant(32, 28672, 4096, "blocks, gated", {"_thin_gated": {"LDGSTS.128": 10}}),
    _variant(8, 6144, 4096, "static", _THIN),
    _variant(8, 4096, 4096, "rows", _THIN),
    _variant(32, 28672, 4096, "rows", _THIN),
    _variant(64, 4096, 14336, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(32, 4096, 4096, "int8", _THIN),
    _variant(256, 4096, 4096, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 28672, 4096, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 4096, 14336, "rows", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 6144, 4096, "int8", {"_wide": {"IGMMA": 4, "LDGSTS.128": 10}}),
]
