"""A checkpoint in which some linears are quantized, not all in the same way: a rule says how, by a linear's name.

Law: what the rule leaves out is read as plain weights. Parts of one fused linear may differ; they stand side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from quire.kernels.ops.vocabulary import capped, likeliest_of
from quire.model.quantization.expressions import compiled
from quire.model.quantization.method import Experts, Side, Table, Weight, unsupported
from quire.model.quantization.plain import Plain
from quire.model.weights.cursor import Part, Stack


class Scheme(Protocol):
    """How some linears of a checkpoint are quantized. Equal schemes are the same scheme."""

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        ...

    def experts(self, stack: Stack) -> Experts:
        """See Method.experts."""
        ...


Rule = Callable[[str], Scheme | None]
"""A linear's full name, such as model.layers.0.mlp.up_proj, to how it is quantized; None: it is not."""


@dataclass(frozen=True)
class Ruled:
    """Reads each linear by the scheme that ``rule`` finds for its name."""

    rule: Rule

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        assert len(parts) == 1 or side is not Side.IN
        runs = groupby(parts, key=lambda part: self.rule(part.at.path))
        return side_by_side([(scheme or Plain()).load(list(run), side) for scheme, run in runs])

    def table(self, part: Part) -> Table:
        """See Method.table. An embedding is never quantized; a head may be."""
        is_head = part.at.path.endswith("lm_head")
        scheme = self.rule(part.at.path) if is_head else None
        return Plain().table(part) if scheme is None else HeadTable(scheme.load([part], Side.NONE))

    def experts(self, stack: Stack) -> Experts:
        """See Method.experts. All of a layer's experts must be quantized alike."""
        found = [
            self.rule(part.at.path)
            for index in range(stack.num_experts)
            for part in (*stack.wide(index), stack.down(index))
        ]
        if any(scheme != found[0] for scheme in found):
            raise unsupported(
                f"The experts under {stack.at.path} are not all quantized in the same way, which is not implemented."
            )
        return (found[0] or Plain()).experts(stack)


@dataclass(frozen=True)
class SideBySide:
    """Weights that share their input and could not be fused."""

    weights: tuple[Weight, ...]

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        y = torch.cat([weight.matmul(x) for weight in self.weights], dim=1)
        y = y if bias is None else y + bias
        return y if residual is None else residual + y


def side_by_side(weights: Sequence[Weight]) -> Weight:
    """One weight of several."""
    return weights[0] if len(weights) == 1 else SideBySide(tuple(weights))


@dataclass(frozen=True)
class HeadTable:
    """A quantized head."""

    weight: Weight

    def embed(self, ids: Tensor, scale: float) -> Tensor:
        """A head embeds nothing: where it is tied, it is the embedding, which is plain."""
        raise AssertionError("a quantized head is asked for embeddings")

    def logits(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.logits; rounded to x's dtype first."""
        return capped(self.weight.matmul(x).float(), softcap)

    def likeliest(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.likeliest."""
        return likeliest_of(self.logits(x, softcap))


def names_match(entries: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name is one of those that ``entries`` mean: lists of modules, as quantizers write them.

    An entry that begins with ``re:`` is a regular expression, matched from the name's start. Any other is a run of
    whole steps of the name, anywhere in it: ``mlp.gate`` means model.layers.0.mlp.gate, and not ...mlp.gate_proj.
    """
    patterns = [compiled(entry.removeprefix("re:")) for entry in entries if entry.startswith("re:")]
    runs = [f".{entry.strip('.')}." for entry in entries if not entry.startswith("re:")]

    def matches(name: str) -> bool:
        dotted = f".{name}."
        return any(run in dotted for run in runs) or any(pattern.match(name) for pattern in patterns)

    return matches
