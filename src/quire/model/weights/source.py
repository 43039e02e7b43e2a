"""Where a checkpoint's tensors come from: one protocol over safetensors, GGUF and made-up weights.

A source is opened for the time of loading and closed after it; nothing that was read keeps its files mapped.
"""

from collections.abc import Set
from typing import Protocol

import torch
from torch import Tensor

from quire.core.errors import CorruptCheckpoint

Shape = tuple[int, ...]
Window = tuple[slice, ...]
"""One slice for each dimension, with start and stop inside the tensor."""


class LazyTensor(Protocol):
    """A tensor that is still in its file."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> torch.dtype:
        """As stored; float32 for quantized blocks."""
        ...

    def read(self, window: Window, out: Tensor) -> None:
        """Copy a part into ``out``, of the part's shape, converting to its dtype and device.

        Raises CorruptCheckpoint for bytes that cannot be read and for values that are not finite in out's dtype.
        """
        ...


class TensorSource(Protocol):
    """All tensors of a checkpoint, by the names that a Hugging Face checkpoint gives them."""

    def names(self) -> Set[str]: ...

    def tensor(self, name: str, shape: Shape) -> LazyTensor:
        """The tensor that the model expects to have ``shape``.

        Raises CorruptCheckpoint when it is missing or has another shape.
        """
        ...

    def close(self) -> None:
        """Unmap the files. What was read stays."""
        ...


def check_shape(tensor: LazyTensor, expected: Shape, where: str) -> None:
    """Raise CorruptCheckpoint, with ``where`` (file and tensor), if the shapes differ."""
    if tensor.shape != expected:
        raise CorruptCheckpoint(
            f"{where} has shape {list(tensor.shape)}, but the model's configuration asks for {list(expected)}: the "
            "configuration and the weights do not belong together."
        )
