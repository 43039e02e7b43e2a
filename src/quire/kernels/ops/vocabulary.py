"""The two ends of a model, over a table of one row a token: tokens to vectors, vectors to scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from quire.kernels.ops.choice import greedy
from quire.kernels.ops.linear import linear
from quire.kernels.ops.registry import op


@op
def embedding(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """The rows of table [V, E] that ids [T] int64 name, times ``scale``, rounded to the table's dtype: [T, E]."""
    x = F.embedding(ids, table)
    return x if scale == 1 else x * scale


@op
def logits(x: Tensor, table: Tensor, softcap: float | None) -> Tensor:
    """x table^T in float32: [R, E] and [V, E], of one dtype, give [R, V]; then softcap * tanh(y / softcap) if given.

    Rounded once to float32, or to x's dtype first.
    """
    return capped(linear(x, table).float(), softcap)


def capped(y: Tensor, softcap: float | None) -> Tensor:
    """Softcap in place."""
    return y if softcap is None else y.div_(softcap).tanh_().mul_(softcap)


@op
def likeliest_of(y: Tensor) -> Tensor:
    """[R, V] float32 -> [R] int32: the greatest, the lowest id among equals; -1 for NaN, +inf, or nothing finite."""
    return torch.from_numpy(greedy(y)).to(y.device)
