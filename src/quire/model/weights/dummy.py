"""Made-up weights of whatever shape the model asks for: to measure a model without its files' contents."""

import zlib
from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.model.weights.source import LazyTensor, Shape, Window

_STD = 0.02
"""What most models start their training with."""


@dataclass(frozen=True)
class _Imagined:
    """Random numbers that depend on the tensor's name alone; ones for norms."""

    name: str
    shape: Shape
    dtype: torch.dtype = torch.float32

    def read(self, window: Window, out: Tensor) -> None:
        if "norm" in self.name:
            out.fill_(1.0)
            return
        random = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        whole = torch.empty(self.shape, dtype=torch.bfloat16).normal_(std=_STD, generator=random)
        out.copy_(whole[window])


class DummySource:
    """Has every tensor that is asked for, and none by name."""

    def names(self) -> Set[str]:
        return frozenset()

    def tensor(self, name: str, shape: Shape) -> LazyTensor:
        return _Imagined(name, shape)

    def close(self) -> None:
        """There is nothing to close."""
