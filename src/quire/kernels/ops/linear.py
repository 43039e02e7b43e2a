"""Matrix multiplication by a weight, the same for a row whoever its neighbours are."""

import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.registry import op

MIN_ROWS = 8


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b, rounded once from a wider sum.

    x [T, K], weight [N, K], bias [N], one float dtype; returns [T, N] in it. T may be 0.
    Law, batch invariance: a row of y is the same bits whatever T is and wherever the row stands.
    """
    short = MIN_ROWS - x.shape[0]
    if short <= 0:
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, short)), weight, bias)[: x.shape[0]]
