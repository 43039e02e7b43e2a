"""Matrices laid out for the products of this machine, and the operators over them.

Law: packing changes where numbers lie, never the numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.ops.linear import linear
from quire.kernels.ops.registry import op
from quire.kernels.ops.vocabulary import capped, embedding, likeliest_of


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [N, K] in tiles of ``tile_width`` rows: [N / width, K / g, width, g], g = 2 for 16-bit numbers, else 1.

    The last tile is filled up with zeros. The layout is that of ``csrc/linear.cpp``.
    """

    data: Tensor
    """[bytes] uint8."""
    num_out: int
    num_in: int
    dtype: torch.dtype
    tile_width: int

    def unpack(self) -> Tensor:
        """[N, K], a copy."""
        group = 2 if self.dtype.itemsize == 2 else 1
        tiles = self.data.view(self.dtype).view(-1, self.num_in // group, self.tile_width, group)
        return tiles.permute(0, 2, 1, 3).reshape(-1, self.num_in)[: self.num_out]


@op
def packed_linear(
    x: Tensor, weight: PackedMatrix, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """As ``linear``, by a packed weight [N, K] of x's dtype."""
    return linear(x, weight.unpack(), bias, residual)


@op
def packed_embedding(ids: Tensor, table: PackedMatrix, scale: float) -> Tensor:
    """As ``embedding``."""
    return embedding(ids, table.unpack(), scale)


@op
def packed_logits(x: Tensor, table: PackedMatrix, softcap: float | None) -> Tensor:
    """As ``logits``, rounded once."""
    return capped(linear(x.float(), table.unpack().float()), softcap)


@op
def packed_likeliest(x: Tensor, table: PackedMatrix, softcap: float | None) -> Tensor:
    """The greatest of each row's logits: [R, E] -> [R] int32, lowest id among equals, -1 where a row is not sound."""
    return likeliest_of(packed_logits(x, table, softcap))
