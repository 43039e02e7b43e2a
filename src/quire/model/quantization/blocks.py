"""GGUF's block formats, held and multiplied as they are by the native kernels.

A linear is a run of matrices side by side, one for each run of equal formats among its fused parts: files of mixed
formats are common. What a file holds in plain numbers is packed as ``Packed`` does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from quire.kernels.cpu.block_packing import empty_blocks, fill_blocks
from quire.kernels.cpu.packing import Packer
from quire.kernels.ops.blocks import BlockMatrix, block_embedding, block_likeliest, block_linear, block_logits
from quire.kernels.ops.packed import PackedMatrix
from quire.model.quantization.method import Side, Table, Weight
from quire.model.quantization.packed import Packed
from quire.model.weights.cursor import Part

_SLAB_VALUES = 1 << 22
"""Values read at once: what is held beside the packed weights."""

_CUTS = {Side.OUT: 0, Side.IN: 1, Side.NONE: None}


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

    def _read(self, parts: Sequence[Part], side: Side, block_type: str) -> BlockMatrix:
        cut = _CUTS[side]
        shares = [part.at.shape((part.out_features, part.in_features), cut=cut, units=part.units) for part in parts]
        num_out, num_in = sum(share[0] for share in shares), shares[0][1]
        matrix = empty_blocks(self._packer, num_out, num_in, block_type, parts[0].at.dtype)
        first = 0
        for part, share in zip(parts, shares, strict=True):
            for begin, rows in _slabs(part, share, cut):
                fill_blocks(self._packer, matrix, first + begin, rows)
            first += share[0]
        return matrix


def _block_type(part: Part, side: Side) -> str | None:
    shape = part.out_features, part.in_features
    return part.at.block_type("weight", shape, cut=_CUTS[side], units=part.units)


def _slabs(part: Part, share: tuple[int, ...], cut: int | None) -> Iterator[tuple[int, Tensor]]:
    """This rank's rows of a part, [n, bytes] uint8, with the number of the first."""
    step = max(1, _SLAB_VALUES // share[1])
    shape = part.out_features, part.in_features
    for begin in range(0, share[0], step):
        count = min(step, share[0] - begin)
        yield begin, part.at.pull_blocks("weight", shape, cut=cut, units=part.units, first=begin, count=count)
