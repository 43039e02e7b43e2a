"""Linear layers: how features are cut among ranks, and who sums."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.model.quantization.method import Side, Weight
from quire.model.weights.cursor import Cursor, Part


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b, for this rank's share of the features."""

    weight: Weight
    bias: Tensor | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [T, in] -> [T, out], in x's dtype, plus the residual if given."""
        return self.weight.matmul(x, self.bias, residual)


@dataclass(frozen=True)
class Projection:
    """One of the projections that ``split_out`` fuses: its full width, and the units it may be cut into."""

    out_features: int
    units: int | None = None
    """Heads, for q, k and v; None: each feature by itself."""


def split_out(w: Cursor, in_features: int, projections: Mapping[str, Projection], *, bias: bool = False) -> Linear:
    """Fuse projections that share an input; each rank computes its own output features of every one.

    The names are those of the checkpoint, in the order of the output:
    ``split_out(w, E, {"q_proj": Projection(H * D, H), ...})`` is three tensors and one product.
    """
    parts = [Part(w / name, made.out_features, in_features, made.units) for name, made in projections.items()]
    biases = [part.at.pull("bias", (part.out_features,), cut=0, units=part.units) for part in parts] if bias else []
    return Linear(w.method.load(parts, Side.OUT), torch.cat(biases) if biases else None)


def split_in(w: Cursor, in_features: int, out_features: int, *, units: int | None = None, bias: bool = False) -> Linear:
    """Each rank multiplies its own input features; the ranks' outputs are to be summed.

    A group of one has nothing to sum, and a larger one no channel yet.
    """
    assert w.group.size == 1
    weight = w.method.load([Part(w, out_features, in_features, units)], Side.IN)
    return Linear(weight, w.pull("bias", (out_features,)) if bias else None)
