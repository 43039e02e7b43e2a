"""Unquantized weights: one tensor [out, in]. Also how GGUF's blocks are held, once expanded by their source."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from quire.kernels.ops.linear import Activation, gated_linear, linear
from quire.kernels.ops.moe import experts_mlp
from quire.kernels.ops.vocabulary import embedding, likeliest_of, logits
from quire.model.quantization.method import Side
from quire.model.weights.cursor import Part, Stack, pull_fused, pull_stacked


@dataclass(frozen=True)
class PlainWeight:
    """A weight as its numbers."""

    weight: Tensor
    """[out, in]."""

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul; all are of one dtype."""
        return linear(x, self.weight, bias, residual)

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See GatingWeight.gated."""
        return gated_linear(x, self.weight, activation)


@dataclass(frozen=True)
class PlainTable:
    """A table as its numbers."""

    table: Tensor
    """[V, E]."""

    def embed(self, ids: Tensor, scale: float) -> Tensor:
        """See Table.embed."""
        return embedding(ids, self.table, scale)

    def logits(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.logits."""
        return logits(x, self.table, softcap)

    def likeliest(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.likeliest."""
        return likeliest_of(logits(x, self.table, softcap))


@dataclass(frozen=True)
class PlainExperts:
    """Experts as their numbers."""

    gate_up: Tensor
    """[experts, 2F, E], gates first."""
    down: Tensor
    """[experts, E, F]."""

    def mix(self, x: Tensor, weights: Tensor, experts: Tensor, residual: Tensor | None = None) -> Tensor:
        """See Experts.mix."""
        return experts_mlp(x, self.gate_up, self.down, weights, experts, residual=residual)


class Plain:
    """Reads ``NAME.weight`` in the cursor's dtype."""

    def load(self, parts: Sequence[Part], side: Side) -> PlainWeight:
        """See Method.load."""
        assert len(parts) == 1 or side is not Side.IN
        return PlainWeight(pull_fused(parts, "weight", lambda part: part.shape, cut=side.cut))

    def table(self, part: Part) -> PlainTable:
        """See Method.table."""
        return PlainTable(part.at.pull("weight", part.shape))

    def experts(self, stack: Stack) -> PlainExperts:
        """See Method.experts."""
        wide = [stack.wide(index) for index in range(stack.num_experts)]
        down = [[stack.down(index)] for index in range(stack.num_experts)]
        return PlainExperts(
            pull_stacked(wide, "weight", lambda part: part.shape, cut=Side.OUT.cut),
            pull_stacked(down, "weight", lambda part: part.shape, cut=Side.IN.cut),
        )
