"""Made-up weights of whatever shape the model asks for, to measure a model of which only the configuration is at hand.

Law: a tensor's numbers depend on its name and shape alone, not on how it is cut.
"""

from collections.abc import Set
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from quire.model.weights.source import Shape, Window

_STD = 0.02
"""What most models start their training with."""


@dataclass(frozen=True)
class DummyTensor:
    """Ones for a norm, random numbers for anything else."""

    name: str
    shape: Shape

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read."""
        if "norm" in self.name:
            out.fill_(1)
            return
        random = torch.Generator().manual_seed(crc32(self.name.encode()))
        whole = torch.empty(self.shape, dtype=torch.bfloat16).normal_(std=_STD, generator=random)
        out.copy_(whole[window])


class DummySource:
    """Has every tensor that is asked for, and none by name: what is optional, a model's configuration must say."""

    def names(self) -> Set[str]:
        """None."""
        return frozenset()

    def tensor(self, name: str, shape: Shape) -> DummyTensor:
        """Any."""
        return DummyTensor(name, shape)

    def close(self) -> None:
        """There is nothing to close."""
