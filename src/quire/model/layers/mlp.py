"""The dense feed-forward block."""

from torch import Tensor

from quire.core.errors import UnsupportedModel
from quire.kernels.ops.linear import Activation, gate
from quire.model.layers.linear import Projection, split_in, split_out
from quire.model.quantization.method import GatingWeight
from quire.model.weights.cursor import Cursor


class GatedMLP:
    """down(activation(gate(x)) * up(x)); hidden features are cut among ranks."""

    def __init__(
        self, w: Cursor, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool = False
    ) -> None:
        wide = Projection(intermediate_size)
        self._gate_up = split_out(w, hidden_size, {"gate_proj": wide, "up_proj": wide}, bias=bias)
        self._down = split_in(w / "down_proj", intermediate_size, hidden_size, bias=bias)
        self._activation = _activation(activation)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[T, E] -> [T, E], plus the residual if given."""
        return self._down(self._inside(x), residual)

    def _inside(self, x: Tensor) -> Tensor:
        """The hidden features, where the weight can in one product."""
        weight = self._gate_up.weight
        if self._gate_up.bias is None and isinstance(weight, GatingWeight):
            return weight.gated(x, self._activation)
        return gate(self._gate_up(x), self._activation)


def _activation(name: str) -> Activation:
    match name:
        case "silu" | "swish":
            return "silu"
        case "gelu_pytorch_tanh" | "gelu_tanh" | "gelu_new":
            return "gelu_tanh"
    raise UnsupportedModel(
        f"The model's activation is {name!r}; implemented are silu and gelu_pytorch_tanh.", param="$.hidden_act"
    )
