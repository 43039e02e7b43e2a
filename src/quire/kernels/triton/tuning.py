"""Tiles, warps and stages, by operator and shape: plain data, chosen beforehand, never searched for at run time.

A tile that is part of a sum's order depends on the shape of one row or sequence only, never on how many there are.
"""

from typing import NamedTuple


class RowTile(NamedTuple):
    """How one row is taken by one program."""

    block: int
    """Elements, a power of two >= the row's."""
    num_warps: int


def row_tile(size: int) -> RowTile:
    """A whole row at once: 16 elements a thread where there are enough, so that loads are 128 bits wide."""
    block = 1 << (size - 1).bit_length()
    return RowTile(block, min(16, max(1, block // 512)))
