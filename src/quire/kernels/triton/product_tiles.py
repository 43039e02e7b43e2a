"""Tiles of products on an H200, by what is multiplied: plain data, chosen beforehand, never searched for at run time.

``slices`` and ``depth`` are part of a sum's order, so they follow from K and the kind of numbers alone. The rest only
says who computes what: small tiles of weights, so that few output features spread over 132 multiprocessors, and as
many stages as keep some 64 KB in flight on each of them, which is what its share of the memory's speed asks for.
Values are computed, not measured.
"""

from typing import NamedTuple

THIN_ROWS = 32
"""Up to so many rows a product is taken by few rows and many slices. Up to some 200 it is bound by memory."""
THIN_PLAIN_ROWS = 16
"""The same for unquantized weights, beyond which the vendor's library is as good."""
_DEPTHS = {1: 128, 2: 64, 4: 32}
"""By the size of a number: as many as stand in a line of the cache."""
_SHARED_BYTES = 100 * 1024
"""Of one program, so that two fit on a multiprocessor."""
_MOST_SHARED_BYTES = 200 * 1024


class ThinTile(NamedTuple):
    """Of ``thin_sums``."""

    rows: int
    outputs: int
    slices: int
    depth: int
    num_warps: int
    num_stages: int


class WideTile(NamedTuple):
    """Of ``wide_sums``."""

    rows: int
    outputs: int
    depth: int
    group: int
    """Tiles of rows that are computed beside each other, for the cache's sake."""
    num_warps: int
    num_stages: int


def thin_tile(num_rows: int, num_out: int, num_in: int, itemsize: int, *, is_gated: bool = False) -> ThinTile:
    """For up to THIN_ROWS rows; ``itemsize`` is that of the operands."""
    rows = next(size for size in (8, 16, 32) if num_rows <= size)
    slices, depth = (4 if num_in > 1024 else 2), _DEPTHS[itemsize]
    outputs = 16 if num_rows <= 2 or num_out < 4096 else 32
    if is_gated:
        outputs = 16
    x_itemsize = 2 if rows == 8 else itemsize  # so few may come unrounded
    stage = (rows * x_itemsize + outputs * itemsize * (2 if is_gated else 1)) * slices * depth
    return ThinTile(rows, outputs, slices, depth, slices, _stages(stage, most=6))


def wide_tile(num_rows: int, num_out: int, itemsize: int) -> WideTile:
    """For more rows than that."""
    rows = 64 if num_rows <= 256 else 128
    return _wide(rows, 128 if num_rows > 256 else 32 if num_rows <= 64 and num_out <= 8192 else 64, itemsize)


def expert_tile(
    rows: int, num_out: int, num_in: int, itemsize: int, *, is_alone: bool, is_gated: bool
) -> ThinTile | WideTile:
    """For tiles of ``rows`` pairs of one expert each. ``is_alone``: there is one pair in a tile."""
    if rows <= THIN_ROWS:
        tile = thin_tile(1 if is_alone else rows, num_out, num_in, itemsize, is_gated=is_gated)
        return tile._replace(rows=rows)
    return _wide(rows, 64 if is_gated else 128, itemsize)


def w4_thin_tile(num_rows: int, num_out: int, num_in: int) -> ThinTile:
    """For weights of 4 bits and up to THIN_ROWS rows; depth is a run of 64 or 128 columns."""
    tile = thin_tile(num_rows, num_out, num_in, 2)
    return tile._replace(outputs=32, depth=0, num_stages=4)


def w4_wide_tile(num_rows: int, num_out: int) -> WideTile:
    """For weights of 4 bits and more rows than that."""
    rows = 64 if num_rows <= 256 else 128
    is_small = num_rows <= 256 and num_out <= 8192
    return WideTile(rows, 64 if is_small else 128, 0, 8, 4 if is_small else 8, 4)


def _wide(rows: int, outputs: int, itemsize: int) -> WideTile:
    depth = _DEPTHS[itemsize]
    stages = _stages((rows + outputs) * depth * itemsize, most=5)
    return WideTile(rows, outputs, depth, 8, 4 if rows == 64 else 8, stages)


def _stages(stage_bytes: int, most: int) -> int:
    """One more than there are buffers."""
    budget = _SHARED_BYTES if 2 * stage_bytes <= _SHARED_BYTES else _MOST_SHARED_BYTES
    return 1 + min(most, max(2, budget // stage_bytes))
