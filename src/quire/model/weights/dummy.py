"""Made-up weights of whatever shape the model asks for, to measure a model of which only the configuration is at hand.

They are drawn where they will lie, so that a large model costs the host nothing. Law: on one kind of device, a tensor's
numbers depend on its name and shape alone, not on how it is cut.
"""

from collections.abc import Set
from dataclasses import dataclass
from math import prod
from zlib import crc32

import torch
from torch import Tensor

from quire.model.weights.source import Shape, Window

_STD = 0.02
"""What most models start their training with."""
_SCALE = 2.0**-12
_NARROW_STD = _STD / _SCALE
"""Of numbers of 8 bits, which such scales bring back."""
_CHUNK_VALUES = 1 << 20


@dataclass(frozen=True)
class DummyTensor:
    """Ones for a norm, one small number for scales, random numbers for anything else: finite, of any type."""

    name: str
    shape: Shape

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read."""
        kind = self.name.rpartition(".")[2]
        if "norm" in self.name:
            out.fill_(1)
        elif "input_scale" in kind:
            out.fill_(_STD)
        elif "scale" in kind:
            out.fill_(_SCALE)
        elif len(self.shape) == 1:
            out.copy_(self._chunk(0, self.shape, out)[window])
        else:
            self._read_rows(window, out)

    def _read_rows(self, window: Window, out: Tensor) -> None:
        rows = max(1, _CHUNK_VALUES // prod(self.shape[1:]))
        start, stop = window[0].start, window[0].stop
        for chunk in range(start // rows, -(-stop // rows)):
            begin, end = max(start, chunk * rows), min(stop, (chunk + 1) * rows)
            values = self._chunk(chunk, (min(rows, self.shape[0] - chunk * rows), *self.shape[1:]), out)
            out[begin - start : end - start] = values[begin - chunk * rows : end - chunk * rows, *window[1:]]

    def _chunk(self, index: int, shape: Shape, like: Tensor) -> Tensor:
        """Rows are drawn in chunks, each from a seed of its own, so that a part of them costs no more than itself."""
        seed = crc32(f"{self.name} {index}".encode())
        random = torch.Generator(like.device).manual_seed(seed)
        if not like.is_floating_point():
            limits = torch.iinfo(like.dtype)
            values = torch.empty(shape, dtype=like.dtype, device=like.device)
            return values.random_(limits.min, limits.max, generator=random)
        is_narrow = like.dtype.itemsize == 1
        values = torch.empty(shape, dtype=torch.bfloat16, device=like.device)
        values.normal_(std=_NARROW_STD if is_narrow else _STD, generator=random)
        return values.clamp_(-448, 448).to(like.dtype) if is_narrow else values


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
