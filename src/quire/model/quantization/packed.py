"""Unquantized weights, laid out for the native products of this CPU while they are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.cpu.packing import Packer
from quire.kernels.ops.packed import (
    PackedMatrix,
    packed_embedding,
    packed_likeliest,
    packed_linear,
    packed_logits,
)
from quire.model.quantization.method import Side
from quire.model.weights.cursor import Part

_SLAB_VALUES = 1 << 22
"""Values read at once: what is held beside the packed weights."""

_CUTS = {Side.OUT: 0, Side.IN: 1, Side.NONE: None}


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
        cut = _CUTS[side]
        shares = [part.at.shape((part.out_features, part.in_features), cut=cut, units=part.units) for part in parts]
        matrix = self._packer.empty(sum(share[0] for share in shares), shares[0][1], parts[0].at.dtype)
        first = 0
        for part, share in zip(parts, shares, strict=True):
            first = self._read(part, share, cut, matrix, first)
        return PackedWeight(matrix)

    def table(self, part: Part) -> PackedWeight:
        """See Method.table."""
        return self.load([part], Side.NONE)

    def _read(self, part: Part, share: tuple[int, ...], cut: int | None, matrix: PackedMatrix, first: int) -> int:
        """Read one part's rows into their place, from row ``first`` on; returns the row after them."""
        rows = max(1, _SLAB_VALUES // share[1])
        slab = torch.empty((min(rows, share[0]), share[1]), dtype=matrix.dtype)
        for begin in range(0, share[0], rows):
            piece = slab[: min(rows, share[0] - begin)]
            part.at.pull(
                "weight", (part.out_features, part.in_features), cut=cut, units=part.units, out=piece, first=begin
            )
            self._packer.fill(matrix, first + begin, piece)
        return first + share[0]
