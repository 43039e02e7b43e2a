"""Packing matrices of plain numbers: at every level, the layout that is written down, whatever pieces it is done in."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from quire.kernels.cpu.packing import Packer

pytestmark = pytest.mark.native

SIZES = [(1, 2), (31, 34), (64, 32), (97, 66), (70, 2050), (33, 4130)]
"""[out, in]: under, at and over whole tiles, squares and pieces of work."""


def numbers(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Of which no two neighbours are alike, nor any zero."""
    bits = torch.arange(1, shape[0] * shape[1] + 1, dtype=torch.int32).view(shape)
    return bits.float() if dtype == torch.float32 else (bits % 32749 + 1).to(torch.int16).view(torch.bfloat16)


def laid_out(weight: Tensor, width: int) -> Tensor:
    """Tiles of ``width`` rows, zeros below the last; in a tile, the lanes of 4 bytes of the same place side by side."""
    num_out, num_in = weight.shape
    tiles = -(-num_out // width)
    whole = torch.zeros(tiles * width, num_in, dtype=weight.dtype)
    whole[:num_out] = weight
    lanes = whole.view(torch.int32).view(tiles, width, -1)
    return lanes.transpose(1, 2).contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_layout(native: Any, size: tuple[int, int], dtype: torch.dtype) -> None:
    weight = numbers(size, dtype)
    expected = laid_out(weight, native.library.tile_width)
    assert torch.equal(native.pack(weight).data, expected)
    beside = torch.zeros(size[0], size[1] + 6, dtype=dtype)
    beside[:, 4:-2] = weight
    assert torch.equal(native.pack(beside[:, 4:-2]).data, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_leave_their_neighbours_alone(native: Any, dtype: torch.dtype) -> None:
    weight = numbers((131, 70), dtype)
    expected = laid_out(weight, native.library.tile_width)
    packer = Packer(native.library, native.pool)
    for edges in ([0, 131], [0, 64, 128, 131], [0, 1, 3, 19, 35, 36, 80, 129, 131], list(range(132))):
        packed = packer.empty(131, 70, dtype)
        # The last first: what is there already must stay.
        for first, last in reversed(list(pairwise(edges))):
            packer.fill(packed, first, weight[first:last])
        assert torch.equal(packed.data, expected), edges
