"""Products in e4m3 and in int8 on a CUDA device.

Contract: as ``fp8_linear`` and ``w8a8_linear``. Activations are rounded by a kernel of their own, or, where few of them
meet scales in blocks, on the way to the product. Up to THIN_ROWS rows and above, the order of a sum differs; in each
regime a row's bits do not depend on its company. Above, e4m3 is summed with some 14 bits within 128 features.

Bound: up to 64 rows the reading of the weight, above that the tensor cores: 1979 TFLOP/s in the data sheet.
"""

import torch
from torch import Tensor

from quire.kernels.ops.fp8 import BLOCK, FP8, fp8_linear
from quire.kernels.ops.w8a8 import w8a8_linear
from quire.kernels.triton.matmul import multiply
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
    if weight_scale.dim() == 2:
        if len(x) <= ROUNDED_ON_THE_WAY:
            return multiply(x, weight, "blocks", x.dtype, None, weight_scale, bias, residual)
        return multiply(*_first(round_fp8(x, BLOCK), weight, "blocks", x.dtype), weight_scale, bias, residual)
    rounded = round_fp8(x) if input_scale is None else (round_fp8_static(x, input_scale), input_scale)
    return multiply(*_first(rounded, weight, "rows", x.dtype), weight_scale, bias, residual)


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
    rounded = round_int8(x) if input_scale is None else (round_int8_static(x, input_scale), input_scale)
    return multiply(*_first(rounded, weight, "rows", x.dtype), weight_scale, bias, residual)


def _first(
    rounded: tuple[Tensor, Tensor], weight: Tensor, kind: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, str, torch.dtype, Tensor]:
    """The arguments of ``multiply`` up to the scale of x."""
    return rounded[0], weight, kind, dtype, rounded[1]


def _call(num_rows: int, num_out: int, num_in: int, kind: str) -> object:
    x, dtype = blank(num_rows, num_in), torch.int8 if kind == "int8" else FP8
    shape = (-(-num_out // BLOCK), num_in // BLOCK) if kind == "blocks" else (num_out,)
    weight, scale = blank(num_out, num_in, dtype=dtype), blank(*shape, dtype=torch.float32)
    return (multiply_int8 if kind == "int8" else multiply_fp8)(x, weight, scale, None, None, blank(num_rows, num_out))


def _variant(num_rows: int, num_out: int, num_in: int, kind: str, expects: dict[str, dict[str, int]]) -> Variant:
    name = f"{kind}, {num_rows} x {num_out} x {num_in}"
    return Variant(name, lambda: _call(num_rows, num_out, num_in, kind), expects)


_THIN = {"_thin": {"LDGSTS.128": 10}}
VARIANTS = [
    _variant(1, 4096, 4096, "blocks", _THIN),
    _variant(8, 28672, 4096, "blocks", _THIN),
    _variant(32, 4096, 14336, "blocks", _THIN),
    _variant(8, 4096, 4096, "rows", _THIN),
    _variant(32, 28672, 4096, "rows", _THIN),
    _variant(64, 4096, 14336, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(32, 4096, 4096, "int8", _THIN),
    _variant(256, 4096, 4096, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 28672, 4096, "blocks", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 4096, 14336, "rows", {"_wide": {"QGMMA": 4, "LDGSTS.128": 10}}),
    _variant(4096, 6144, 4096, "int8", {"_wide": {"IGMMA": 4, "LDGSTS.128": 10}}),
]
