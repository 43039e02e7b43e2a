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

_CHUNK_VALUES = 1 << 20


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
        if len(self.shape) == 1:
            out.copy_(self._chunk(0, self.shape)[window])
            return
        rows = max(1, _CHUNK_VALUES // self.shape[1])
        start, stop = window[0].start, window[0].stop
        for chunk in range(start // rows, -(-stop // rows)):
            begin, end = max(start, chunk * rows), min(stop, (chunk + 1) * rows)
            values = self._chunk(chunk, (min(rows, self.shape[0] - chunk * rows), *self.shape[1:]))
            out[begin - start : end - start] = values[begin - chunk * rows : end - chunk * rows, *window[1:]]

    def _chunk(self, index: int, shape: Shape) -> Tensor:
        """Rows are drawn in chunks, each from a seed of its own, so that a part of them costs no more than itself."""
        random = torch.Generator().manual_seed(crc32(f"{self.name} {index}".encode()))
        return torch.empty(shape, dtype=torch.bfloat16).normal_(std=_STD, generator=random)


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
