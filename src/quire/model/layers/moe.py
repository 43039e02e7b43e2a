"""A mixture of experts: many feed-forward blocks, of which a router chooses a few for each token.

Source: Shazeer et al. 2017; Fedus et al. 2021. Every rank chooses alike, from the whole router; each holds a share of
every expert's hidden features.
"""

from dataclasses import dataclass

from torch import Tensor

from quire.core.errors import UnsupportedModel
from quire.kernels.ops.linear import linear
from quire.kernels.ops.moe import Routing, route
from quire.model.weights.cursor import Cursor, Stack


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """One layer's experts; sizes are full."""

    num_experts: int
    intermediate_size: int
    """Of one expert."""
    routing: Routing


class Mixture:
    """For each token, the sum of its chosen experts' down(silu(gate(x)) * up(x)), by the router's weights."""

    def __init__(self, w: Cursor, hidden_size: int, config: MixtureConfig, activation: str) -> None:
        if activation not in ("silu", "swish"):
            raise UnsupportedModel(
                f"The model's experts are activated by {activation!r}; implemented is silu.", param="$.hidden_act"
            )
        self._routing = config.routing
        self._router = w.pull("gate.weight", (config.num_experts, hidden_size))
        self._experts = w.method.experts(
            Stack(w / "experts", config.num_experts, hidden_size, config.intermediate_size)
        )

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[T, E] -> [T, E], plus the residual if given."""
        weights, experts = route(linear(x, self._router), self._routing)
        return self._experts.mix(x, weights, experts, residual)
