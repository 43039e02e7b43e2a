"""GGUF's block formats, held and multiplied as they are by the native kernels.

A linear is a run of matrices side by side, one for each run of equal formats among its fused parts: files of mixed
formats are common. What a file holds in plain numbers is packed as ``Packed`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from quire.kernels.cpu.block_packing import empty_blocks, fill_blocks
from quire.kernels.cpu.packing import Packer
from quire.kernels.ops.blocks import (
    BlockMatrix,
    block_bytes,
    block_embedding,
    block_likeliest,
    block_linear,
    block_logits,
)
from quire.kernels.ops.packed import PackedMatrix
from quire.model.quantization.method import Experts, Side, Table, Weight
from quire.model.quantization.packed import Packed
from quire.model.weights.cursor import Part, Stack, fused_shape, fused_slabs
from quire.model.weights.source import slab_rows


@dataclass(frozen=True)
class BlockWeight:
    """Matrices side by side as a linear's weight."""

    matrices: tuple[BlockMatrix | PackedMatrix, ...]

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """See Weight.matmul."""
        return block_linear(x, self.matrices, bias, residual)


@dataclass(frozen=True)
class BlockTable:
    """A matrix in blocks as a table."""

    matrix: BlockMatrix

    def embed(self, ids: Tensor, scale: float) -> Tensor:
        """See Table.embed."""
        return block_embedding(ids, self.matrix, scale)

    def logits(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.logits."""
        return block_logits(x, self.matrix, softcap)

    def likeliest(self, x: Tensor, softcap: float | None) -> Tensor:
        """See Table.likeliest."""
        return block_likeliest(x, self.matrix, softcap)


class Blocks:
    """Reads ``NAME.weight`` as blocks, where it lies in blocks, for products in the cursor's dtype."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._plain = Packed(packer)

    def load(self, parts: Sequence[Part], side: Side) -> Weight:
        """See Method.load."""
        assert len(parts) == 1 or side is not Side.IN
        matrices: list[BlockMatrix | PackedMatrix] = []
        for block_type, run in groupby(parts, key=lambda part: _block_type(part, side)):
            if block_type is None:
                matrices.append(self._plain.load(list(run), side).matrix)
            else:
                matrices.append(self._read(list(run), side, block_type))
        return BlockWeight(tuple(matrices))

    def table(self, part: Part) -> Table:
        """See Method.table."""
        block_type = _block_type(part, Side.NONE)
        if block_type is None:
            return self._plain.table(part)
        return BlockTable(self._read([part], Side.NONE, block_type))

    def experts(self, stack: Stack) -> Experts:
        """See Packed.experts."""
        return self._plain.experts(stack)

    def _read(self, parts: Sequence[Part], side: Side, block_type: str) -> BlockMatrix:
        num_out, num_in = fused_shape(parts, side)
        matrix = empty_blocks(self._packer, num_out, num_in, block_type, parts[0].at.dtype)
        held = torch.empty((min(slab_rows(num_in), num_out), block_bytes(block_type, num_in)), dtype=torch.uint8)
        for part, slab, first in fused_slabs(parts, side):
            rows = held[: slab.stop - slab.start]
            part.at.pull_blocks("weight", part.shape, cut=side.cut, units=part.units, out=rows, first=slab.start)
            fill_blocks(self._packer, matrix, first, rows)
        return matrix


def _block_type(part: Part, side: Side) -> str | None:
    return part.at.block_type("weight", part.shape, cut=side.cut, units=part.units)
