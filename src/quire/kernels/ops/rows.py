"""Picking rows."""

from torch import Tensor

from quire.kernels.ops.registry import op


@op
def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The rows of x [T, ...] that ``rows`` [R] int64 names: a copy [R, ...]."""
    return x[rows]
