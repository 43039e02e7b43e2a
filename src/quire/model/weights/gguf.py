"""Tensors of a GGUF file, under the names and in the layout that Hugging Face checkpoints give them.

Blocks are had as they are, or expanded while they are read, and only the rows asked for; what conversion to GGUF
changed (the order of rows of rotated heads, the 1 added to some norms) is undone on the way. The file itself belongs to
the checkpoint that opened it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.checkpoint.gguf import GGUFFile, GGUFTensor
from quire.checkpoint.gguf_names import Placement, placements
from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.kernels.ops.blocks import BLOCK_LAYOUTS
from quire.kernels.ops.dequantize import FORMATS, dequantize
from quire.model.weights.source import Shape, Window, check_shape, is_host_memory, put, slab_rows, slabs


@dataclass(frozen=True)
class BlockTensor:
    """A matrix, one of a stack of them, or a vector of plain numbers, in the file."""

    file: GGUFFile
    placement: Placement
    shape: Shape
    where: str

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read."""
        # A vector is read as a matrix of one column, so that its elements are picked as rows are.
        matrix = out if len(window) == 2 else out[:, None]
        num_cols, begin = self.shape[1] if len(window) == 2 else 1, window[0].start
        columns = window[1] if len(window) == 2 else slice(0, 1)
        offset = self.placement.offset
        held = torch.empty((min(slab_rows(num_cols), len(out)), self._row_bytes), dtype=torch.uint8)
        for slab in slabs((len(out), num_cols)):
            blocks, place = held[: slab.stop - slab.start], matrix[slab]
            self._read_rows(slice(begin + slab.start, begin + slab.stop), blocks.numpy())
            if place.shape[1] == num_cols and is_host_memory(place) and not offset:
                values = place
            else:
                values = torch.empty((len(blocks), num_cols), dtype=torch.float32 if offset else out.dtype)
            dequantize(blocks, self._stored.type, values)
            if offset:
                values += offset
            put(values if values is place else values[:, columns], place, self.where)

    def block_type(self, window: Window) -> str | None:
        """See LazyBlocks.block_type."""
        name = self._stored.type
        if name not in BLOCK_LAYOUTS or self.placement.offset:
            return None
        return None if self._cuts_a_block(name, window[1]) else name

    def read_blocks(self, window: Window, out: Tensor) -> None:
        """See LazyBlocks.read_blocks."""
        block_type, rows = self._stored.type, out.numpy()
        form = FORMATS[block_type]
        if out.shape[1] == self._row_bytes:
            self._read_rows(window[0], rows)
        else:
            whole = np.empty((len(rows), self._row_bytes), np.uint8)
            self._read_rows(window[0], whole)
            first, last = (edge // form.num_values * form.num_bytes for edge in (window[1].start, window[1].stop))
            rows[:] = whole[:, first:last]
        blocks = rows.reshape(-1, form.num_bytes)
        for at in BLOCK_LAYOUTS[block_type].factors:
            # The largest exponent is infinity's, and that of what is not a number.
            if (blocks[:, at + 1] & 0x7C == 0x7C).any():
                raise CorruptCheckpoint(f"{self.where} holds a value that is not finite: the file is damaged.")

    @property
    def _stored(self) -> GGUFTensor:
        return self.file.tensors[self.placement.gguf_name]

    @property
    def _row_bytes(self) -> int:
        return self._stored.num_bytes // prod(self._stored.shape[: max(1, len(self._stored.shape) - 1)])

    def _read_rows(self, rows: slice, out: np.ndarray) -> None:
        """Rows of the tensor, in its own order, into ``out`` [rows, bytes]: one stretch of the file, put in order."""
        name, heads = self.placement.gguf_name, self.placement.permute_heads
        if heads is None:
            self.file.read(name, (self.placement.expert or 0) * self.shape[0] + rows.start, out)
            return
        order = np.arange(self.shape[0]).reshape(heads, -1, 2).swapaxes(1, 2).ravel()[rows]
        first = int(order.min())
        stretch = np.empty((int(order.max()) + 1 - first, self._row_bytes), np.uint8)
        self.file.read(name, first, stretch)
        np.take(stretch, order - first, axis=0, out=out)

    def _cuts_a_block(self, block_type: str, columns: slice) -> bool:
        size = FORMATS[block_type].num_values
        return bool(columns.start % size or columns.stop % size)


class GGUFSource:
    """All tensors of one GGUF file. ``config`` is its checkpoint's, for the numbers of layers and heads.

    Raises UnsupportedModel for an architecture, or a tensor, without a counterpart in Hugging Face's names.
    """

    def __init__(self, file: GGUFFile, config: Mapping[str, Any]) -> None:
        self._file = file
        self._placements = placements(file, dict(config))

    def names(self) -> Set[str]:
        """Hugging Face's names."""
        return self._placements.keys()

    def tensor(self, name: str, shape: Shape) -> BlockTensor:
        """See TensorSource.tensor."""
        if name not in self._placements:
            raise CorruptCheckpoint(
                f"{self._file.path} holds no tensor for {name!r}, which the model's configuration asks for."
            )
        placement = self._placements[name]
        stored = self._file.tensors[placement.gguf_name]
        where = f"{self._file.path}: tensor {stored.name!r} ({name})"
        check_shape(stored.shape if placement.expert is None else stored.shape[1:], shape, where)
        if len(shape) > 2 or (len(shape) == 1 and FORMATS[stored.type].num_values > 1):
            raise UnsupportedModel(
                f"{where} has {len(shape)} dimensions and is of type {stored.type}, which is not implemented."
            )
        if placement.permute_heads is not None and shape[0] % (2 * placement.permute_heads):
            raise CorruptCheckpoint(
                f"{where} has {shape[0]} rows, not pairs of rows for {placement.permute_heads} heads."
            )
        return BlockTensor(self._file, placement, shape, where)

    def close(self) -> None:
        """Let the pages of the file's metadata leave memory."""
        self._file.drop_pages()
