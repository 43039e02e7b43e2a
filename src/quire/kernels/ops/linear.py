"""Matrix multiplication by a weight, the same for a row whoever its neighbours are.

BLAS libraries choose kernels, and so the order of a sum, by the number of rows: MKL's sgemm on two threads gives 1-3,
5-7 and 9-11 rows other bits than any other number, oneDNN at times a lone bfloat16 row. Multiples of 4 rows all took
one order, in every case tried: torch 2.13 on AVX-512, 1 to 48 threads, T to 2048, N from 8 to 49152, K from 64 to
8192, float32, bfloat16 and float16, dense and strided rows, with and without bias.

Measured bound: four rows of bfloat16 take 1.1 to 1.2 times as long as one, of float32 1.7 to 2.7 times.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.activation import gelu_tanh_and_mul, silu_and_mul
from quire.kernels.ops.registry import op

Activation = Literal["silu", "gelu_tanh"]

ROW_TILE = 4


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """y = x W^T + b, and the residual if given, rounded once from a wider sum, or before the residual is added too.

    x [T, K], weight [N, K], bias [N], residual [T, N], all of one float dtype; returns [T, N] in it. T may be 0; rows
    of x may be strided. Law, batch invariance: a row of y is the same bits whatever T is and wherever the row stands.
    """
    num_rows = x.shape[0]
    short = -num_rows % ROW_TILE
    y = F.linear(F.pad(x, (0, 0, 0, short)) if short else x, weight, bias)[:num_rows]
    return y if residual is None else residual + y


@op
def gated_linear(x: Tensor, weight: Tensor, activation: Activation) -> Tensor:
    """activation(x G^T) * (x U^T) for weight [2F, K] = [G; U], both as of ``linear``: [T, K] -> [T, F].

    Gates and ups are rounded to x's dtype before they meet, or not at all.
    """
    return gate(linear.reference(x, weight), activation)


def gate(x: Tensor, activation: Activation) -> Tensor:
    """The activation of that name, see ``activation``: [T, 2F] -> [T, F]."""
    return (silu_and_mul if activation == "silu" else gelu_tanh_and_mul)(x)
