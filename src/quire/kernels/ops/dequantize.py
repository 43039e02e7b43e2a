"""Expands the block formats of GGUF files into plain numbers.

A row is a run of blocks. A block of 32 or 256 values (Q2_K to Q6_K: a superblock of 256, in 8 or 16 sub-blocks) holds
their small integers, and float16 factors to scale and shift them by; K formats scale each sub-block by a small integer
too. Source: the ggml project's description of its formats; byte layouts stand in each function's docstring.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quire.kernels.ops.registry import op

_CHUNK = 1 << 20
"""Values expanded at once: 4 MB of float32, enough for threads to pay and little enough for a cache."""


@op
def dequantize(data: Tensor, block_type: str, out: Tensor) -> None:
    """Write the values of ``data`` to ``out``.

    data [rows, bytes per row] uint8, contiguous, at an even address; ``block_type`` is a name in FORMATS, for
    instance "Q4_1"; out [rows, cols], contiguous, of any float dtype. Values are computed in float32, each product and
    sum rounded on its own, and rounded once more to out's dtype. Needs a few MB beside them, however large they are.
    """
    form = FORMATS[block_type]
    blocks = data.view(-1, form.num_bytes)
    values = out.view(-1, form.num_values)
    assert len(blocks) == len(values), f"{len(blocks)} blocks of {block_type} for {tuple(out.shape)}"
    step = max(1, _CHUNK // form.num_values)
    for start in range(0, len(blocks), step):
        part = values[start : start + step]
        part.copy_(form.expand(blocks[start : start + step]).view_as(part))


class Format(NamedTuple):
    """One block format. ``expand``: [n, num_bytes] uint8 -> n * num_values numbers."""

    num_values: int
    num_bytes: int
    expand: Callable[[Tensor], Tensor]


def _floats(blocks: Tensor, start: int) -> Tensor:
    """[n, 1] float32: the float16 at byte ``start``."""
    return blocks[:, start : start + 2].view(torch.float16).float()


def _fields(packed: Tensor, bits: int, groups: int = 1) -> Tensor:
    """[n, groups * b] uint8 -> [n, groups, 8 / bits, b]: in each group the lowest field of every byte first."""
    packed = packed.view(len(packed), groups, -1)
    fields = packed.new_empty((len(packed), groups, 8 // bits, packed.shape[2]))
    for index in range(8 // bits):
        torch.bitwise_right_shift(packed, bits * index, out=fields[:, :, index])
    return fields.bitwise_and_((1 << bits) - 1)


def _nibbles(packed: Tensor) -> Tensor:
    """[n, 16] uint8 -> [n, 32] uint8: sixteen low halves, then sixteen high halves."""
    return torch.cat((packed & 15, packed >> 4), dim=1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """[n, 4] uint8 -> [n, 32] uint8, 16 where a bit is set and 0 elsewhere."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] >> shifts & 1) << 4).view(-1, 32)


def _q4_0(blocks: Tensor) -> Tensor:
    """d f16, 16 bytes of nibbles: d (q - 8)."""
    return _nibbles(blocks[:, 2:]).float().sub_(8).mul_(_floats(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    """d f16, m f16, 16 bytes of nibbles: d q + m."""
    return _nibbles(blocks[:, 4:]).float().mul_(_floats(blocks, 0)).add_(_floats(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    """d f16, 32 fifth bits, 16 bytes of nibbles: d (q - 16)."""
    q = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return q.float().sub_(16).mul_(_floats(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    """d f16, m f16, 32 fifth bits, 16 bytes of nibbles: d q + m."""
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return q.float().mul_(_floats(blocks, 0)).add_(_floats(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    """d f16, 32 int8: d q."""
    return blocks[:, 2:].view(torch.int8).float().mul_(_floats(blocks, 0))


def _q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of (scale, min) nibbles, 64 bytes of 2-bit q, d f16, dmin f16: d scale q - dmin min."""
    scales = blocks[:, :16]
    q = _fields(blocks[:, 16:80], 2, groups=2).view(-1, 16, 16)
    return _scaled(q, _floats(blocks, 80) * (scales & 15), _floats(blocks, 82) * (scales >> 4))


def _q3_k(blocks: Tensor) -> Tensor:
    """32 bytes of third bits, 64 bytes of 2-bit q, 12 bytes of 6-bit scales, d f16: d (scale - 32) (q - 4).

    Scales: the low four bits of sixteen in 8 bytes, then their high two bits in 4.
    """
    low = _fields(blocks[:, 96:104], 4).view(-1, 16)
    high = _fields(blocks[:, 104:108], 2).view(-1, 16)
    scales = (low | high << 4).to(torch.int8) - 32
    third = _fields(blocks[:, :32], 1).view(-1, 16, 16)
    q = _fields(blocks[:, 32:96], 2, groups=2).view(-1, 16, 16) | third << 2
    return _scaled(q.to(torch.int8) - 4, _floats(blocks, 108) * scales)


def _q4_k(blocks: Tensor) -> Tensor:
    """d f16, dmin f16, 12 bytes of 6-bit (scale, min), 128 bytes of nibbles: d scale q - dmin min."""
    scales, mins = _six_bit_pairs(blocks[:, 4:16])
    q = _fields(blocks[:, 16:], 4, groups=4).view(-1, 8, 32)
    return _scaled(q, _floats(blocks, 0) * scales, _floats(blocks, 2) * mins)


def _q5_k(blocks: Tensor) -> Tensor:
    """d f16, dmin f16, 12 bytes of 6-bit (scale, min), 32 bytes of fifth bits, 128 of nibbles: d scale q - dmin min."""
    scales, mins = _six_bit_pairs(blocks[:, 4:16])
    fifth = _fields(blocks[:, 16:48], 1).view(-1, 8, 32)
    q = _fields(blocks[:, 48:], 4, groups=4).view(-1, 8, 32) | fifth << 4
    return _scaled(q, _floats(blocks, 0) * scales, _floats(blocks, 2) * mins)


def _q6_k(blocks: Tensor) -> Tensor:
    """128 bytes of nibbles, 64 bytes of high two bits, 16 int8 scales, d f16: d scale (q - 32)."""
    low = _fields(blocks[:, :128], 4, groups=2).view(-1, 16, 16)
    high = _fields(blocks[:, 128:192], 2, groups=2).view(-1, 16, 16)
    q = (low | high << 4).to(torch.int8) - 32
    return _scaled(q, _floats(blocks, 208) * blocks[:, 192:208].view(torch.int8))


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 12] uint8 -> scales, mins [n, 8] uint8.

    Bytes 0-3 and 4-7 hold the first four scales and mins, and in their top two bits those of the last four; bytes 8-11
    hold the low four bits of the last four scales and, above them, mins.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=1)
    mins = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return scales, mins


def _scaled(q: Tensor, scales: Tensor, mins: Tensor | None = None) -> Tensor:
    """q [n, sub-blocks, values] times scales [n, sub-blocks] float32, less mins of that shape."""
    values = q.float().mul_(scales[..., None])
    return values if mins is None else values.sub_(mins[..., None])


FORMATS = {
    "F32": Format(1, 4, lambda data: data.view(torch.float32)),
    "F16": Format(1, 2, lambda data: data.view(torch.float16)),
    "BF16": Format(1, 2, lambda data: data.view(torch.bfloat16)),
    "Q4_0": Format(32, 18, _q4_0),
    "Q4_1": Format(32, 20, _q4_1),
    "Q5_0": Format(32, 22, _q5_0),
    "Q5_1": Format(32, 24, _q5_1),
    "Q8_0": Format(32, 34, _q8_0),
    "Q2_K": Format(256, 84, _q2_k),
    "Q3_K": Format(256, 110, _q3_k),
    "Q4_K": Format(256, 144, _q4_k),
    "Q5_K": Format(256, 176, _q5_k),
    "Q6_K": Format(256, 210, _q6_k),
}
"""By the names that GGUF gives them. Values of a row are a multiple of a format's num_values."""
