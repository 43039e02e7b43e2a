"""Unquantized weights, laid out for the native products of this CPU while they are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.cpu.packing import Packer
from quire.kernels.cpu.program import CannotRecord
from quire.kernels.ops.packed import (
    PackedMatrix,
    packed_embedding,
    packed_likeliest,
    packed_linear,
    packed_logits,
)
from quire.model.quantization.method import Experts, Side
from quire.model.weights.cursor import Part, Stack, fused_shape, fused_slabs
from quire.model.weights.source import slab_rows


@dataclass(frozen=True)
class PackedWeight:
    """A packed matrix as a linear's weight, and as a table."""

    matrix: PackedMatrix

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        return packed_linear(x, self.matrix, bias, residual)

    def embed(self, ids: Tensor, scale: float) -> Tensor:
        """See Table.embed."""
        return packed_embedding(ids, self.matrix, scale)

    def logits(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.logits."""
        return packed_logits(x, self.matrix, softcap)

    def likeliest(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.likeliest."""
        return packed_likeliest(x, self.matrix, softcap)


class Packed:
    """Reads ``NAME.weight`` in the cursor's dtype, float32 or bfloat16, and packs it slab by slab."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def load(self, parts: Sequence[Part], side: Side) -> PackedWeight:
        """See Method.load."""
        assert len(parts) == 1 or side is not Side.IN
        num_out, num_in = fused_shape(parts, side)
        matrix = self._packer.empty(num_out, num_in, parts[0].at.dtype)
        held = torch.empty((min(slab_rows(num_in), num_out), num_in), dtype=matrix.dtype)
        for part, slab, first in fused_slabs(parts, side):
            rows = held[: slab.stop - slab.start]
            part.at.pull("weight", part.shape, cut=side.cut, units=part.units, out=rows, first=slab.start)
            self._packer.fill(matrix, first, rows)
        return PackedWeight(matrix)

    def table(self, part: Part) -> PackedWeight:
        """See Method.table."""
        return self.load([part], Side.NONE)

    def experts(self, stack: Stack) -> Experts:
        """Raises CannotRecord: torch computes mixtures."""
        raise CannotRecord("the native kernels do not compute mixtures of experts")
