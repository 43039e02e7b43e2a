"""The tensors that hold keys and values. Accounting, who owns which block, is the scheduler's and never meets them.

Law: what was never written is zero, and nothing stored is NaN or infinite; so a masked value, times zero, is zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quire.kernels.ops.int8 import SCALE_BYTES
from quire.kernels.pages import Pages

Shape = tuple[int, ...]


@dataclass(frozen=True)
class KVSpec:
    """What one layer stores for a token, and how far back it looks."""

    num_kv_heads: int
    """This rank's share."""
    head_dim: int
    sliding_window: int | None = None
    """Tokens a query sees, itself included; None: all."""

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Of key and value together; int8 comes with a scale for each head of each."""
        scale_bytes = SCALE_BYTES if dtype == torch.int8 else 0
        return 2 * self.num_kv_heads * (self.head_dim * dtype.itemsize + scale_bytes)


class KVStorage:
    """Key and value pages of all layers. Lives on a worker; block b is the same b, dimension 0, in every layer."""

    def __init__(self, shapes: Sequence[tuple[Shape, Shape]], dtype: torch.dtype, device: torch.device) -> None:
        """``shapes`` of each layer's keys and values, as the attention backend lays them out."""
        self._pages: list[Pages] = []  # what lies under the layers, on a CPU

        def zeros(shape: Shape) -> Tensor:
            if device.type != "cpu":
                return torch.zeros(shape, dtype=dtype, device=device)
            pages = Pages(math.prod(shape) * dtype.itemsize)
            self._pages.append(pages)
            return torch.from_numpy(pages.array).view(dtype).view(shape)

        self.layers: list[tuple[Tensor, Tensor]] = [(zeros(keys), zeros(values)) for keys, values in shapes]

    @staticmethod
    def bytes_per_block(specs: Sequence[KVSpec], block_size: int, dtype: torch.dtype) -> int:
        """What one more block costs, over all layers."""
        return block_size * sum(spec.bytes_per_token(dtype) for spec in specs)

    def copy(self, copies: np.ndarray) -> None:
        """Copy blocks: [n, 3] (from block, to block, number of tokens that count).

        All sources are read before a target is written. Tokens past the number come along; nobody sees them.
        """
        if not len(copies):
            return
        source, target = (torch.from_numpy(copies[:, i].astype(np.int64)) for i in (0, 1))
        for pair in self.layers:
            for pages in pair:
                pages[target.to(pages.device)] = pages[source.to(pages.device)]

    def release(self) -> None:
        """Forget everything and give the memory back. Nothing may be computed before ``restore``.

        On a CPU all tensors stay where they are; on a device they move.
        """
        for pages in self._pages:
            pages.release()
        for tensor in self._on_device():
            tensor.untyped_storage().resize_(0)

    def restore(self) -> None:
        """Have memory again: all zeros. Raises torch.OutOfMemoryError where others took it."""
        for tensor in self._on_device():
            tensor.untyped_storage().resize_(tensor.numel() * tensor.itemsize)
            tensor.zero_()

    def _on_device(self) -> list[Tensor]:
        return [tensor for pair in self.layers for tensor in pair if tensor.device.type != "cpu"]
