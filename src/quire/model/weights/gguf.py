"""Tensors of a GGUF file, under the names and in the layout that Hugging Face checkpoints give them.

Blocks are had as they are, or expanded while they are read, and only the rows asked for; what conversion to GGUF
changed (the order of rows of rotated heads, the 1 added to some norms) is undone on the way. Pages of the file leave
memory as soon as they were expanded; the file itself belongs to the checkpoint that opened it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_names import Placement, placements
from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.kernels.ops.blocks import BLOCK_LAYOUTS
from quire.kernels.ops.dequantize import FORMATS, dequantize
from quire.model.weights.source import Shape, Window, check_shape, put, slabs


@dataclass(frozen=True)
class BlockTensor:
    """A matrix, or a vector of plain numbers, in the file."""

    file: GGUFFile
    placement: Placement
    shape: Shape
    where: str

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read."""
        name, offset = self.placement.gguf_name, self.placement.offset
        block_type = self.file.tensors[name].type
        # A vector is read as a matrix of one column, so that its elements are picked as rows are.
        rows = self.file.data(name).reshape(self.shape[0], -1)
        num_cols = self.shape[1] if len(self.shape) == 2 else 1
        order = self._order()[window[0]]
        for slab in slabs(tuple(out.shape)):
            # Indexing copies: the bytes come out writable, and at an address fit for every type.
            blocks = torch.from_numpy(rows[order[slab]])
            values = torch.empty((len(blocks), num_cols), dtype=torch.float32 if offset else out.dtype)
            dequantize(blocks, block_type, values)
            if offset:
                values += offset
            put(values[:, window[1]] if len(window) == 2 else values[:, 0], out[slab], self.where)
        self.file.drop_pages(name)

    def block_type(self, window: Window) -> str | None:
        """See LazyBlocks.block_type."""
        name = self.file.tensors[self.placement.gguf_name].type
        if name not in BLOCK_LAYOUTS or self.placement.offset:
            return None
        return None if self._cuts_a_block(name, window[1]) else name

    def blocks(self, window: Window) -> Tensor:
        """See LazyBlocks.blocks."""
        name = self.placement.gguf_name
        block_type = self.file.tensors[name].type
        form = FORMATS[block_type]
        first, last = (edge // form.num_values * form.num_bytes for edge in (window[1].start, window[1].stop))
        rows = self.file.data(name)[self._order()[window[0]], first:last]
        blocks = rows.reshape(-1, form.num_bytes)
        for at in BLOCK_LAYOUTS[block_type].factors:
            # The largest exponent is infinity's, and that of what is not a number.
            if (blocks[:, at + 1] & 0x7C == 0x7C).any():
                raise CorruptCheckpoint(f"{self.where} holds a value that is not finite: the file is damaged.")
        return torch.from_numpy(rows)

    def _cuts_a_block(self, block_type: str, columns: slice) -> bool:
        size = FORMATS[block_type].num_values
        return bool(columns.start % size or columns.stop % size)

    def _order(self) -> np.ndarray:
        """[rows] int64: for each row, the row of the file that it comes from."""
        rows = np.arange(self.shape[0])
        heads = self.placement.permute_heads
        return rows if heads is None else rows.reshape(heads, -1, 2).swapaxes(1, 2).ravel()


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
        check_shape(stored.shape, shape, where)
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
        """Let the file's pages leave memory."""
        self._file.drop_pages()
