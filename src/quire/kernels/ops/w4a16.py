"""Weights of 4 bits with a scale for each group of 32, 64 or 128 inputs, multiplied by activations as they are.

One layout for all checkpoints (``W4Matrix``); ``awq``, ``gptq`` and ``compressed`` read theirs into plain numbers
(``W4Numbers``), which may be fused along the output and are then packed. A value is (code - zero) * scale.

Law: packing changes where bits lie, never the numbers.

Sources: Lin et al. 2023 (AWQ), Frantar et al. 2022 (GPTQ); packed layouts as in the checkpoints' own projects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quire.kernels.ops.fp8 import finished
from quire.kernels.ops.linear import linear
from quire.kernels.ops.registry import op

TILE_ROWS = 64
"""Output features whose codes lie together: the rows of one tensor core instruction."""
GROUP_SIZES = (32, 64, 128)
SYMMETRIC_ZERO = 8
_AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of a word, lowest first, holds the word's column 0, 1, ..."""


class W4Numbers(NamedTuple):
    """A weight [N, K] in plain numbers, at load only: 1 byte for a code."""

    codes: Tensor
    """[N, K] uint8, 0..15; columns in the order of ``order``."""
    scales: Tensor
    """[N, K / group] of the checkpoint's float dtype."""
    zeros: Tensor | None
    """[N, K / group] uint8, 0..16; None: 8 everywhere."""
    order: Tensor | None
    """[K] int32: column i multiplies input order[i]; None: input i."""


@dataclass(frozen=True)
class W4Matrix:
    """A matrix [N, K] in tiles of 64 rows, the last filled up with codes and scales that are zero."""

    data: Tensor
    """[tiles, K / 2s, 64, s] uint8, s = half(group): byte b of a row holds column b of its run of 2s in the low half,
    and column s + b in the high half."""
    scales: Tensor
    """[K / group, tiles * 64], of the checkpoint's float dtype."""
    zeros: Tensor | None
    """As scales, uint8; None: 8 everywhere."""
    order: Tensor | None
    """[K] int32, see W4Numbers."""
    num_out: int
    num_in: int
    group_size: int

    def unpack(self) -> Tensor:
        """[N, K] float32, a copy, its columns in the order of the inputs."""
        codes = torch.stack((self.data & 15, self.data >> 4), 3)  # [tiles, runs, 64, 2, s]
        values = codes.permute(0, 2, 1, 3, 4).reshape(-1, self.num_in).float()
        zeros = SYMMETRIC_ZERO if self.zeros is None else _wide(self.zeros.T, self.group_size)
        values = ((values - zeros) * _wide(self.scales.T, self.group_size))[: self.num_out]
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy_(1, self.order.long(), values)


@op
def w4a16_linear(x: Tensor, weight: W4Matrix, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """As ``linear``, by a weight of 4 bits: x [T, K] -> [T, N] in x's dtype.

    As if codes less zeros were multiplied by x and by the scales in float32; bias [N] and residual [T, N] are added to
    that, and the result is rounded once. T may be 0; rows of x and residual may be strided. Batch invariant.
    """
    return finished(linear(x.float(), weight.unpack()), x.dtype, bias, residual)


def half(group_size: int) -> int:
    """Columns in one half of a run: as many bytes of a row lie together."""
    return min(64, group_size)


def pack(numbers: W4Numbers) -> W4Matrix:
    """Lay a weight out for products.

    Groups longer than 128 (a whole row, say) become groups of 128 with equal scales. Raises ValueError for sizes that
    the layout does not have: groups other than 32, 64 or multiples of 128, K no multiple of a run.
    """
    codes, scales, zeros, order = numbers
    num_out, num_in = codes.shape
    group = num_in // scales.shape[1]
    if group > 128 and group % 128 == 0:
        scales = scales.repeat_interleave(group // 128, 1)
        zeros = None if zeros is None else zeros.repeat_interleave(group // 128, 1)
        group = 128
    s = half(group)
    if group not in GROUP_SIZES or num_in % (2 * s) or scales.shape[1] * group != num_in:
        raise ValueError(f"4-bit weights [{num_out}, {num_in}] with {numbers.scales.shape[1]} groups have no layout")
    codes = _padded(codes).view(-1, TILE_ROWS, num_in // (2 * s), 2, s).permute(0, 2, 1, 3, 4)
    data = codes[..., 0, :] | codes[..., 1, :] << 4
    return W4Matrix(
        data.contiguous(),
        _padded(scales).T.contiguous(),
        None if zeros is None else _padded(zeros).T.contiguous(),
        order,
        num_out,
        num_in,
        group,
    )


def fuse(parts: Sequence[W4Numbers]) -> W4Numbers:
    """Weights that share their input, one below the other. Raises ValueError if they do not order it alike."""
    first = parts[0]
    for part in parts[1:]:
        if (part.order is None) != (first.order is None) or (
            part.order is not None and first.order is not None and not torch.equal(part.order, first.order)
        ):
            raise ValueError("4-bit weights that order their input differently cannot be fused")
    zeros = None
    if any(part.zeros is not None for part in parts):
        zeros = torch.cat([torch.full_like(p.scales, 8).to(torch.uint8) if p.zeros is None else p.zeros for p in parts])
    return W4Numbers(torch.cat([p.codes for p in parts]), torch.cat([p.scales for p in parts]), zeros, first.order)


def awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> W4Numbers:
    """AWQ's "gemm" layout: qweight [K, N / 8] and qzeros [K / group, N / 8] int32, scales [K / group, N]."""
    columns = torch.tensor(_AWQ_COLUMNS, device=qweight.device)

    def unpacked(words: Tensor) -> Tensor:
        return _nibbles(words)[..., columns].flatten(1).T

    return W4Numbers(unpacked(qweight).contiguous(), scales.T.contiguous(), unpacked(qzeros).contiguous(), None)


def gptq(
    qweight: Tensor, qzeros: Tensor | None, scales: Tensor, g_idx: Tensor | None = None, *, is_v2: bool = False
) -> W4Numbers:
    """GPTQ's layout: qweight [K / 8, N] and qzeros [K / group, N / 8] int32, scales [K / group, N].

    ``qzeros`` None: symmetric. In the first version of the format, which most checkpoints have, zeros are stored less
    one; ``is_v2``: as they are. ``g_idx`` [K] names each input's group: with act-order they are not in line, and
    columns are sorted by group. Groups must have equal sizes (ValueError).
    """
    codes = _nibbles(qweight).permute(1, 0, 2).flatten(1)  # [N, K]
    zeros = None
    if qzeros is not None:
        zeros = (_nibbles(qzeros).flatten(1).T + (0 if is_v2 else 1)).contiguous()
    return _ordered(W4Numbers(codes.contiguous(), scales.T.contiguous(), zeros, None), g_idx)


def compressed(
    weight_packed: Tensor, weight_scale: Tensor, weight_zero_point: Tensor | None = None, g_idx: Tensor | None = None
) -> W4Numbers:
    """compressed-tensors' "pack-quantized": weight_packed [N, K / 8] int32, scales [N, K / group] (or [N, 1]).

    Codes and zeros are stored plus 8; weight_zero_point [N / 8, K / group] int32, packed along N; None: symmetric.
    ``g_idx`` as for GPTQ.
    """
    codes = _nibbles(weight_packed).flatten(1)
    zeros = None
    if weight_zero_point is not None:
        zeros = _nibbles(weight_zero_point).permute(0, 2, 1).flatten(0, 1)[: len(codes)].contiguous()
    return _ordered(W4Numbers(codes, weight_scale, zeros, None), g_idx)


def _ordered(numbers: W4Numbers, g_idx: Tensor | None) -> W4Numbers:
    """Sort columns by group, where they are not in line already."""
    if g_idx is None or numbers.scales.shape[1] == 1:
        return numbers
    num_in, num_groups = numbers.codes.shape[1], numbers.scales.shape[1]
    in_line = torch.arange(num_in, device=g_idx.device) // (num_in // num_groups)
    if torch.equal(g_idx.long(), in_line):
        return numbers
    groups, order = g_idx.long().sort(stable=True)
    if not torch.equal(groups, in_line):
        raise ValueError(f"g_idx does not share {num_in} inputs equally among {num_groups} groups")
    return numbers._replace(codes=numbers.codes[:, order].contiguous(), order=order.int())


def _nibbles(words: Tensor) -> Tensor:
    """[a, b] int32 -> [a, b, 8] uint8, the lowest four bits first."""
    shifts = torch.arange(0, 32, 4, device=words.device, dtype=torch.int32)
    return (words[..., None] >> shifts & 15).to(torch.uint8)


def _padded(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % TILE_ROWS))


def _wide(groups: Tensor, size: int) -> Tensor:
    return groups.float().repeat_interleave(size, 1)
