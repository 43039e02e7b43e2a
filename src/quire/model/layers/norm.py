"""Root-mean-square norm with its weight."""

import torch
from torch import Tensor

from quire.kernels.ops.norm import rms_norm
from quire.model.weights.cursor import Cursor


class RMSNorm:
    """x / rms(x) * weight over the last dimension; every rank holds all of it.

    ``is_zero_centered``: the checkpoint holds weight - 1 (Gemma). One plus a small number needs more bits than
    bfloat16 has, so the sum is kept in float32.
    """

    def __init__(self, w: Cursor, size: int, eps: float, *, is_zero_centered: bool = False) -> None:
        stored = w.pull("weight", (size,), dtype=torch.float32 if is_zero_centered else None)
        self.weight = stored + 1 if is_zero_centered else stored
        self.eps = eps

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., size] -> same shape and dtype, plus the residual if given."""
        return rms_norm(x, self.weight, self.eps, residual)
