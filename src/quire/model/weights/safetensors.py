"""Tensors of a safetensors checkpoint, in one file or many.

Owns the mappings. Law: a name stands in one file only. Format: https://huggingface.co/docs/safetensors. The library
checks each header against the size of its file, so what is handed out lies inside it; what it cannot know, that shards
do not repeat each other and that values are finite, is checked here.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.core.errors import CorruptCheckpoint, ModelUnavailable, UnsupportedModel
from quire.model.weights.source import Shape, Window, check_shape, put, slabs

_FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))


@dataclass(frozen=True)
class StoredTensor:
    """A view of the mapped file; its bytes come from the disk as they are touched."""

    values: Tensor
    where: str

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read. Integers, and floats of 8 bits, come only as the type they are stored in."""
        stored = self.values.dtype
        if stored != out.dtype and not (stored in _FLOATS and out.dtype in _FLOATS):
            raise UnsupportedModel(
                f"{self.where} is stored as {_name(stored)} where the model holds {_name(out.dtype)}: it belongs to a "
                "quantization method that is not implemented, or that config.json does not state."
            )
        part = self.values[window]
        for slab in slabs(tuple(out.shape)):
            put(part[slab], out[slab], self.where)


class SafetensorsSource:
    """All shards of one checkpoint, open. Raises CorruptCheckpoint for a file that is not what it claims to be."""

    def __init__(self, files: Sequence[Path]) -> None:
        assert files
        self._where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} safetensors files)"
        self._shards: dict[str, tuple[Path, Any]] = {}
        for path in files:
            shard = _open(path)
            for name in list(shard.keys()):
                if name in self._shards:
                    raise CorruptCheckpoint(
                        f"{path}: tensor {name!r} is in {self._shards[name][0].name} too. Fetch the model again, into "
                        "an empty folder."
                    )
                self._shards[name] = (path, shard)

    def names(self) -> Set[str]:
        """Of all shards."""
        return self._shards.keys()

    def tensor(self, name: str, shape: Shape) -> StoredTensor:
        """See TensorSource.tensor."""
        if name not in self._shards:
            raise CorruptCheckpoint(
                f"{self._where} holds no tensor {name!r}, which the model's configuration asks for."
            )
        path, shard = self._shards[name]
        where = f"{path}: tensor {name!r}"
        try:
            values: Tensor = shard.get_tensor(name)
        except (SafetensorError, RuntimeError, AttributeError) as error:
            raise UnsupportedModel(f"{where} cannot be held as a tensor: {error}.") from None
        check_shape(tuple(values.shape), shape, where)
        return StoredTensor(values, where)

    def close(self) -> None:
        """Let go of the shards; the last view of one unmaps it."""
        self._shards.clear()


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CorruptCheckpoint(
            f"{path} is not a whole safetensors file ({error}): it is damaged or was not fetched completely. Fetch it "
            "again."
        ) from None
    except OSError as error:
        raise ModelUnavailable(f"cannot open {path}: {error}.") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
