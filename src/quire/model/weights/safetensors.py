"""Tensors of a safetensors checkpoint, in one file or many.

The library maps the files and checks their headers; what it cannot know, that shards do not repeat each other and
values are finite, is checked here.
"""

from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.core.errors import CorruptCheckpoint, UnsupportedModel
from quire.model.weights.source import LazyTensor, Shape, Window, check_finite, check_shape

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Stored:
    """One tensor in its file."""

    view: Any
    where: str
    shape: Shape
    dtype: torch.dtype

    def read(self, window: Window, out: Tensor) -> None:
        try:
            out.copy_(self.view[window] if window else self.view[:])
        except SafetensorError as error:
            raise CorruptCheckpoint(f"{self.where} cannot be read: {error}") from None
        check_finite(out, self.where)


class SafetensorsSource:
    """All shards of one checkpoint, mapped. Raises CorruptCheckpoint naming the file that is not what it claims."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self._shards: dict[str, tuple[Path, Any]] = {}
        for file in files:
            self._open(file)

    def _open(self, file: Path) -> None:
        try:
            shard = self._stack.enter_context(safe_open(str(file), framework="pt"))
        except (SafetensorError, OSError) as error:
            raise CorruptCheckpoint(
                f"{file} cannot be read as safetensors ({error}): it is damaged or was not fetched completely."
            ) from None
        for name in shard.keys():
            if name in self._shards:
                raise CorruptCheckpoint(f"Tensor {name!r} is in {self._shards[name][0].name} and in {file} as well.")
            self._shards[name] = (file, shard)

    def names(self) -> Set[str]:
        return self._shards.keys()

    def tensor(self, name: str, shape: Shape) -> LazyTensor:
        if name not in self._shards:
            files = ", ".join(sorted({file.name for file, _ in self._shards.values()})) or "the checkpoint"
            raise CorruptCheckpoint(f"Tensor {name!r} is missing from {files}.")
        file, shard = self._shards[name]
        view = shard.get_slice(name)
        dtype = _DTYPES.get(view.get_dtype())
        where = f"{file}: tensor {name!r}"
        if dtype is None:
            raise UnsupportedModel(f"{where} is of type {view.get_dtype()}; {', '.join(_DTYPES)} can be read.")
        stored = _Stored(view, where, tuple(view.get_shape()), dtype)
        check_shape(stored.shape, shape, where)
        return stored

    def close(self) -> None:
        self._stack.close()
        self._shards.clear()
