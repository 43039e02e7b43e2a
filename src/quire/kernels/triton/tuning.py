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


ELEMENTS = RowTile(1024, 4)
"""A stretch of a row whose elements have nothing to do with each other: 8 a thread, which is 128 bits of bfloat16."""

HEADS = 8
"""Heads of one token in one program."""


def head_warps(size: int) -> int:
    """Warps for ``HEADS`` heads of which ``size`` features are loaded at a time: 8 a thread."""
    return max(1, HEADS * size // 256)


STRETCH = 4096
"""Logits of one row in one program: a batch of one has 32 of them and more, which a vocabulary's read needs."""

CANDIDATES = 2048
"""Most tokens of a row that are sorted; a row that keeps more is searched, which takes longer."""

SORT_WARPS = 16
"""For ``CANDIDATES`` keys of 64 bits."""
