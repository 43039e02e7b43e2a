"""Tensors of a GGUF file, under the names and in the layout that Hugging Face checkpoints give them.

Blocks are expanded while they are read, some rows at a time; what conversion to GGUF changed (the order of rows of
rotated heads, the 1 added to some norms) is undone on the way.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_names import Placement, placements
from quire.core.errors import CorruptCheckpoint
from quire.kernels.ops.dequantize import dequantize
from quire.model.weights.source import LazyTensor, Shape, Window, check_finite, check_shape

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK_VALUES = 1 << 22
"""Values expanded from one copy of their bytes."""


@dataclass(frozen=True)
class _Stored:
    """One tensor in the file."""

    file: GGUFFile
    placement: Placement
    shape: Shape
    where: str

    @property
    def dtype(self) -> torch.dtype:
        return _PLAIN.get(self.file.tensors[self.placement.gguf_name].type, torch.float32)

    def read(self, window: Window, out: Tensor) -> None:
        rows, columns = (window if len(window) == 2 else (slice(0, 1), window[0])) if window else (slice(0, 1),) * 2
        target = out.view(-1, out.shape[-1]) if out.dim() != 2 else out
        whole = columns == slice(0, self.shape[-1])
        for part, raw in self._pieces(rows):
            place = target[part]
            if whole and place.is_contiguous() and not self.placement.offset:
                self._expand(raw, place)
            else:
                wide = torch.empty((len(raw), self.shape[-1]), dtype=torch.float32)
                self._expand(raw, wide)
                place.copy_(wide[:, columns] + self.placement.offset)
        self.file.drop_pages(self.placement.gguf_name)
        check_finite(out, self.where)

    def _pieces(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """The raw bytes of some rows at a time, and where among ``rows`` those belong."""
        data = self.file.data(self.placement.gguf_name)
        order = self._order(len(data))
        step = max(1, _CHUNK_VALUES // self.shape[-1])
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            # A copy: of these rows, in this order, writable, and at an address fit for every type.
            raw = data[start:stop].copy() if order is None else data[order[start:stop]]
            yield slice(start - rows.start, stop - rows.start), torch.from_numpy(raw)

    def _order(self, num_rows: int) -> np.ndarray | None:
        """For each row, the row of the file it comes from; None where they are in order."""
        heads = self.placement.permute_heads
        if heads is None:
            return None
        return np.arange(num_rows).reshape(heads, num_rows // heads // 2, 2).swapaxes(1, 2).ravel()

    def _expand(self, raw: Tensor, out: Tensor) -> None:
        kind = self.file.tensors[self.placement.gguf_name].type
        if kind in _PLAIN:
            out.copy_(raw.view(_PLAIN[kind]))
        else:
            dequantize(raw, kind, out)


class GGUFSource:
    """All tensors of one GGUF file. The file belongs to the checkpoint that opened it."""

    def __init__(self, file: GGUFFile, config: Mapping[str, Any]) -> None:
        self._file = file
        self._placements = placements(file, dict(config))

    def names(self) -> Set[str]:
        return self._placements.keys()

    def tensor(self, name: str, shape: Shape) -> LazyTensor:
        where = f"{self._file.path}: tensor {name!r}"
        if name not in self._placements:
            raise CorruptCheckpoint(f"{where} is missing.")
        placement = self._placements[name]
        stored = _Stored(self._file, placement, self._file.tensors[placement.gguf_name].shape, where)
        check_shape(stored.shape, shape, where)
        return stored

    def close(self) -> None:
        self._file.drop_pages()
