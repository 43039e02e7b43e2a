"""Matrices that stay in GGUF's block formats, laid out for the products of this machine, and the operators over them.

Law: packing changes where bits lie, never the numbers. Products round their input, row by row, so that a row's result
never depends on its neighbours: to 8 bits, in groups of 32 by the group's own largest magnitude. The one or two largest
of a group stay as they are where they are large beside the row's others. Of random inputs that moves a product by about
0.6 % of its usual size; of real models it changes log probabilities by some hundredths, as bfloat16 does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from quire.kernels.ops.dequantize import FORMATS
from quire.kernels.ops.linear import linear
from quire.kernels.ops.packed import PackedMatrix
from quire.kernels.ops.registry import op
from quire.kernels.ops.vocabulary import capped, likeliest_of

UNIT = 32
"""Numbers that are scaled and summed together."""
_QUADS = UNIT // 4
_MOST_LONE, _LEAST_GAIN = 2, 0.6
_NOTHING = 2.0**-100
"""A group whose largest magnitude is less is rounded to zeros: its scale would have no inverse."""


class BlockLayout(NamedTuple):
    """One format as ``csrc/blocks.h`` lays it out: value = scale (q - offset) + min."""

    code: int
    """The header's number for it."""
    low: int
    high: int
    """Bits of q in the two planes."""
    subs: int
    """Scales of a unit."""
    is_nested: bool
    """Scales are small integers, times a factor of a superblock of eight units."""
    has_min: bool
    offset: int
    factors: tuple[int, ...]
    """Where in a block of the file the float16 numbers stand, in bytes."""

    @property
    def units(self) -> int:
        """Of a superblock, which is a block of the file."""
        return 8 if self.is_nested else 1


BLOCK_LAYOUTS: Mapping[str, BlockLayout] = MappingProxyType(
    {
        "Q4_0": BlockLayout(0, 4, 0, 1, False, False, 8, (0,)),
        "Q4_1": BlockLayout(1, 4, 0, 1, False, True, 0, (0, 2)),
        "Q5_0": BlockLayout(2, 4, 1, 1, False, False, 16, (0,)),
        "Q5_1": BlockLayout(3, 4, 1, 1, False, True, 0, (0, 2)),
        "Q8_0": BlockLayout(4, 8, 0, 1, False, False, 128, (0,)),
        "Q2_K": BlockLayout(5, 2, 0, 2, True, True, 0, (80, 82)),
        "Q3_K": BlockLayout(6, 2, 1, 2, True, False, 4, (108,)),
        "Q4_K": BlockLayout(7, 4, 0, 1, True, True, 0, (0, 2)),
        "Q5_K": BlockLayout(8, 4, 1, 1, True, True, 0, (0, 2)),
        "Q6_K": BlockLayout(9, 4, 2, 2, True, False, 32, (208,)),
    }
)
"""The formats that products take as they are, by GGUF's names; their blocks in a file are dequantize.FORMATS'."""


@dataclass(frozen=True)
class BlockMatrix:
    """A matrix [N, K] of one format, in tiles of ``tile_width`` rows, the last filled up with zeros."""

    data: Tensor
    """[bytes] uint8, laid out as ``csrc/blocks.h`` says."""
    num_out: int
    num_in: int
    block_type: str
    dtype: torch.dtype
    """Of what it is multiplied with, and of rows taken from it."""
    tile_width: int

    def unpack(self) -> Tensor:
        """[N, K] float32, a copy: what ``dequantize`` makes of the blocks of the file, bit for bit."""
        form, width = BLOCK_LAYOUTS[self.block_type], self.tile_width
        tiles, superblocks = -(-self.num_out // width), self.num_in // (UNIT * form.units)
        parts = 1 + form.has_min  # scales, then mins
        head_bytes = 2 * parts * width if form.is_nested else 0
        code_bytes = 4 * (form.low + form.high) * width
        blocks = self.data.view(tiles, superblocks, -1)
        units = blocks[..., head_bytes:].reshape(tiles, superblocks, form.units, -1)
        scales = units[..., code_bytes:].contiguous()
        if form.is_nested:
            small = scales.view(torch.int8).view(tiles, superblocks, form.units, parts, form.subs, width)
            factors = blocks[..., :head_bytes].contiguous().view(torch.float16)
            scalings = small.float() * factors.view(tiles, superblocks, 1, parts, 1, width).float()
        else:
            scalings = scales.view(torch.float16).view(tiles, superblocks, 1, parts, 1, width).float()
        scalings = scalings.transpose(4, 5)[..., None]  # [tiles, superblocks, units, parts, width, subs, 1]
        rows = units[..., :code_bytes].reshape(tiles, superblocks, form.units, -1, width, 4)
        q = _codes(rows, form).view(tiles, superblocks, form.units, width, form.subs, -1)
        values = (q.float() - form.offset) * scalings[:, :, :, 0]
        if form.has_min:
            values = values + scalings[:, :, :, 1]
        matrix: Tensor = values.movedim(3, 1).reshape(-1, self.num_in)
        return matrix[: self.num_out]


def _codes(rows: Tensor, form: BlockLayout) -> Tensor:
    """Rows of words [..., rows, width, 4] uint8 -> [..., width, 32] uint8: q of a unit."""
    quads = []
    for j in range(_QUADS):
        r, shift = j % form.low, form.low * (j // form.low)
        quad = rows[..., r + (r + 1 if r < form.high else form.high), :, :] >> shift & ((1 << form.low) - 1)
        if form.high:
            r, shift = j % form.high, form.high * (j // form.high)
            quad = quad | (rows[..., 2 * r, :, :] >> shift & ((1 << form.high) - 1)) << form.low
        quads.append(quad)
    return torch.cat(quads, dim=-1)


def rounded(x: Tensor) -> Tensor:
    """x [T, K] as products see it, in float32: each group of 32 to whole multiples of its largest magnitude / 127.

    The largest of a group, or the two largest, are no part of it, and not rounded, where the square of its largest
    magnitude falls by more than 3/5 for each of them; in squares of the mean over the row's groups.
    """
    groups = x.float().reshape(len(x), -1, UNIT)
    magnitudes = groups.abs()
    ranked, places = magnitudes.sort(dim=2, descending=True, stable=True)
    mean = ranked[..., :1].mean(dim=1, keepdim=True).clamp_min_(_NOTHING)
    squares = (ranked[..., : _MOST_LONE + 1] / mean).square_()
    counts = torch.arange(_MOST_LONE + 1, device=x.device)
    num_lone = (squares[..., :1] - squares - _LEAST_GAIN * counts).argmax(dim=2, keepdim=True)
    is_taken = counts[:-1] < num_lone
    is_lone = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, places[..., :_MOST_LONE], is_taken)
    rest = groups.masked_fill(is_lone, 0.0)
    magnitude = rest.abs().amax(dim=2, keepdim=True)
    is_nothing = magnitude < _NOTHING
    inverse = torch.full_like(magnitude, 127.0).div_(magnitude).masked_fill_(is_nothing, 0.0)
    scale = (magnitude * torch.tensor(1 / 127.0)).masked_fill_(is_nothing, 0.0)
    return groups.where(is_lone, (rest * inverse).round_() * scale).view(x.shape)


@op
def block_linear(
    x: Tensor,
    matrices: Sequence[BlockMatrix | PackedMatrix],
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """As ``linear``, by matrices [N_i, K] whose outputs stand side by side: [T, K] -> [T, sum of N_i].

    Products with matrices in blocks see ``rounded(x)``, and sum in float32; bias and residual are added to that, and
    the result is rounded once to x's dtype.
    """
    y = torch.cat([_product(x, matrix) for matrix in matrices], dim=1)
    if bias is not None:
        y = y + bias.float()
    return (y if residual is None else y + residual.float()).to(x.dtype)


@op
def block_embedding(ids: Tensor, table: BlockMatrix, scale: float) -> Tensor:
    """The rows of a table that ids [T] int64 name, times ``scale`` in float32, rounded once to the table's dtype."""
    return (table.unpack()[ids] * scale).to(table.dtype)


@op
def block_logits(x: Tensor, table: BlockMatrix, softcap: float | None) -> Tensor:
    """As ``logits``, of ``rounded(x)``: [R, K] -> [R, N] float32."""
    return capped(_product(x, table), softcap)


@op
def block_likeliest(x: Tensor, table: BlockMatrix, softcap: float | None) -> Tensor:
    """The greatest of each row's logits: [R, K] -> [R] int32, lowest id among equals, -1 where a row is not sound."""
    return likeliest_of(block_logits(x, table, softcap))


def _product(x: Tensor, matrix: BlockMatrix | PackedMatrix) -> Tensor:
    wide = rounded(x) if isinstance(matrix, BlockMatrix) else x.float()
    return linear(wide, matrix.unpack().float())


def block_bytes(block_type: str, num_in: int) -> int:
    """Bytes of a row of num_in values in a file."""
    form = FORMATS[block_type]
    return num_in // form.num_values * form.num_bytes
