"""Where a checkpoint's tensors come from: one protocol over safetensors, GGUF and made-up weights.

A source is opened for the time of loading and closed after it; nothing that was read depends on its files.
Tensors are read in slabs of a few MB, converted, checked and laid out while they lie in the cache, so that loading
passes over memory once and needs little beside the weights.
"""

from collections.abc import Iterator, Set
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from quire.core.errors import CorruptCheckpoint

Shape = tuple[int, ...]
Window = tuple[slice, ...]
"""One slice for each dimension, with start and stop inside the tensor."""

_SLAB = 1 << 20
"""Values read at once."""

_SLAB_ROWS = 64
"""Slabs are of multiples of so many rows, and packed matrices of tiles that divide it: no tile comes in two pieces."""


class LazyTensor(Protocol):
    """A tensor that is still in its file."""

    def read(self, window: Window, out: Tensor) -> None:
        """Copy a part into ``out``, of the part's shape, converting to its dtype and device.

        Raises CorruptCheckpoint, naming file and tensor, for bytes that cannot be read, and for values that are not
        finite in out's dtype.
        """
        ...


@runtime_checkable
class LazyBlocks(Protocol):
    """A LazyTensor of two dimensions that may lie in its file as blocks, which can be had as they are."""

    def block_type(self, window: Window) -> str | None:
        """The format's name (kernels/ops/blocks.py); None for plain numbers, or a part that cuts a block in two."""
        ...

    def read_blocks(self, window: Window, out: Tensor) -> None:
        """Copy a part whose block_type is not None into ``out``, [rows, bytes] uint8, contiguous, on the host.

        Raises CorruptCheckpoint, naming file and tensor, if a block's factors are not finite.
        """
        ...


class TensorSource(Protocol):
    """All tensors of a checkpoint, by the names that a Hugging Face checkpoint gives them."""

    def names(self) -> Set[str]:
        """Those that the files hold; empty if weights are made up."""
        ...

    def tensor(self, name: str, shape: Shape) -> LazyTensor:
        """The tensor that the model expects to have ``shape``.

        Raises CorruptCheckpoint when it is missing or has another shape, UnsupportedModel for types of numbers that
        are not implemented.
        """
        ...

    def close(self) -> None:
        """Close the files. What was read stays."""
        ...


def check_shape(found: Shape, expected: Shape, where: str) -> None:
    """Raise CorruptCheckpoint, with ``where`` (file and tensor), if the shapes differ.

    A single number may have any number of dimensions: those who write scales do not agree.
    """
    if found != expected and not prod(found) == prod(expected) == 1:
        raise CorruptCheckpoint(
            f"{where} has shape {list(found)}, but the model's configuration asks for {list(expected)}: the "
            "configuration and the weights do not belong together."
        )


def slab_rows(values: int) -> int:
    """Rows of so many values in a slab."""
    return max(1, _SLAB // max(1, values) // _SLAB_ROWS) * _SLAB_ROWS


def slabs(shape: Shape) -> Iterator[slice]:
    """Cut dimension 0 into pieces of about a million values each, whole tiles of a packed matrix."""
    step = slab_rows(prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def is_host_memory(place: Tensor) -> bool:
    """Whether a file can be read straight into ``place``."""
    return place.device.type == "cpu" and place.is_contiguous()


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor on the host, [bytes] uint8."""
    memory: np.ndarray = tensor.view(-1).view(torch.uint8).numpy()
    return memory


def put(values: Tensor, place: Tensor, where: str) -> None:
    """Copy ``values``, on the host, into ``place``, converting to its dtype and device; they may be there already.

    Raises CorruptCheckpoint if one of them is not finite there: not a number at all, or beyond its range.
    """
    held = place if place.device.type == "cpu" else torch.empty_like(place, device="cpu")
    if values is not held:
        held.copy_(values)
    if not _is_finite(held):
        raise CorruptCheckpoint(
            f"{where} holds a value that is not finite in {str(place.dtype).removeprefix('torch.')}: the file is "
            "damaged, or the model needs --dtype float32 or bfloat16."
        )
    if held is not place:
        place.copy_(held)


def _is_finite(held: Tensor) -> bool:
    if held.dtype == torch.float8_e4m3fn:  # has no sums; all bits but the sign's are set in what is not a number
        return not bool((held.view(torch.uint8) & 0x7F == 0x7F).any())
    if not held.is_floating_point():
        return True
    # A sum is finite only if all its terms are, and costs a fifth of looking at each. When it is not, it may only
    # have grown too large itself.
    return bool(held.sum().isfinite()) or bool(held.isfinite().all())
