"""What a quantization method makes of a linear: a Weight, one side of which may be cut over ranks.

A method knows its own tensor names and layouts and nothing of models, ranks or devices: ``Side`` tells it which
features are cut, a part's ``units`` into how many indivisible pieces, and the cursor does the cutting. Its own
protocol, ``Method``, stands with the cursor that it reads from.
"""

from enum import Enum
from typing import Protocol, runtime_checkable

from torch import Tensor

from quire.core.errors import UnsupportedModel
from quire.kernels.ops.linear import Activation


class Side(Enum):
    """Which features of a linear the ranks share out."""

    OUT = "out"
    """Each rank computes some of the output features, from all input features."""
    IN = "in"
    """Each rank multiplies some of the input features; the ranks' outputs are to be summed."""
    NONE = "none"
    """Every rank holds all of it."""

    @property
    def cut(self) -> int | None:
        """The dimension of a weight [out, in] that is cut."""
        return {Side.OUT: 0, Side.IN: 1, Side.NONE: None}[self]


class Weight(Protocol):
    """The loaded form of one linear: one rank's part, several fused projections side by side."""

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """x [T, in] -> [T, out], in x's dtype, plus ``residual`` [T, out] if given. Batch invariant."""
        ...


@runtime_checkable
class GatingWeight(Protocol):
    """A weight [2F, in], gates above ups, whose products meet where they are made."""

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(gate) * up of x [T, in]: [T, F], in x's dtype. Batch invariant."""
        ...


class Experts(Protocol):
    """The loaded form of a layer's experts: one rank's share of the hidden features of each."""

    def mix(self, x: Tensor, weights: Tensor, experts: Tensor, residual: Tensor | None = None) -> Tensor:
        """Each token through its experts: x [T, E] -> [T, E], in x's dtype, plus ``residual`` [T, E] if given.

        weights [T, k] float32 and experts [T, k] int32 are ``route``'s. Batch invariant.
        """
        ...


class Table(Protocol):
    """A matrix with one row a token, [V, E]: the embedding, the head, or both at once. Batch invariant."""

    def embed(self, ids: Tensor, scale: float) -> Tensor:
        """ids [T] int64 -> [T, E], times ``scale``."""
        ...

    def logits(self, x: Tensor, softcap: float | None) -> Tensor:
        """x [R, E] -> [R, V] float32, capped if asked."""
        ...

    def likeliest(self, x: Tensor, softcap: float | None) -> Tensor:
        """x [R, E] -> [R] int32: each row's greatest logit, the lowest id among equals; -1 where it is not sound."""
        ...


def unsupported(message: str) -> UnsupportedModel:
    """The error for a quantization that is not implemented."""
    return UnsupportedModel(message, param="$.quantization_config")
