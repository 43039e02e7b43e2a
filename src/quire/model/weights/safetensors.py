"""Tensors of a safetensors checkpoint, in one file or many.

Owns the open files. Law: a name stands in one file only. Format: https://huggingface.co/docs/safetensors. The library
checks each header against the size of its file, so what is handed out lies inside it; what it cannot know, that shards
do not repeat each other and that values are finite, is checked here.
"""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.checkpoint.stretches import Stretches
from quire.core.errors import CorruptCheckpoint, ModelUnavailable, UnsupportedModel
from quire.model.weights.source import Shape, Window, bytes_of, check_shape, is_host_memory, put, slabs

_FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))

_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
"""By the format's names."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in its file; ``offset`` is that of its first byte."""

    file: Stretches
    offset: int
    shape: Shape
    dtype: torch.dtype
    where: str

    def read(self, window: Window, out: Tensor) -> None:
        """See LazyTensor.read. Integers, and floats of 8 bits, come only as the type they are stored in."""
        if self.dtype != out.dtype and not (self.dtype in _FLOATS and out.dtype in _FLOATS):
            raise UnsupportedModel(
                f"{self.where} is stored as {_name(self.dtype)} where the model holds {_name(out.dtype)}: it belongs "
                "to a quantization method that is not implemented, or that config.json does not state."
            )
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        for slab in slabs(tuple(out.shape)):
            place = out[slab]
            shape = (len(place), *self.shape[1:])
            is_direct = tuple(place.shape) == shape and place.dtype == self.dtype and is_host_memory(place)
            rows = place if is_direct else torch.empty(shape, dtype=self.dtype)
            self.file.read(self.offset + (window[0].start + slab.start) * row_bytes, bytes_of(rows), self.where)
            put(rows if is_direct else rows[:, *window[1:]], place, self.where)


class SafetensorsSource:
    """All shards of one checkpoint, open. Raises CorruptCheckpoint for a file that is not what it claims to be."""

    def __init__(self, files: Sequence[Path]) -> None:
        assert files
        self._where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} safetensors files)"
        self._shards: dict[str, _Shard] = {}
        for path in files:
            shard = _Shard(path)
            for name in shard.entries:
                if name in self._shards:
                    raise CorruptCheckpoint(
                        f"{path}: tensor {name!r} is in {self._shards[name].path.name} too. Fetch the model again, "
                        "into an empty folder."
                    )
                self._shards[name] = shard

    def names(self) -> Set[str]:
        """Of all shards."""
        return self._shards.keys()

    def tensor(self, name: str, shape: Shape) -> StoredTensor:
        """See TensorSource.tensor."""
        if name not in self._shards:
            raise CorruptCheckpoint(
                f"{self._where} holds no tensor {name!r}, which the model's configuration asks for."
            )
        tensor = self._shards[name].tensor(name)
        check_shape(tensor.shape, shape, tensor.where)
        return replace(tensor, shape=shape)

    def close(self) -> None:
        """Close the shards."""
        for shard in self._shards.values():
            shard.file.close()
        self._shards.clear()


class _Shard:
    """One open file, whose header the library has checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise CorruptCheckpoint(
                f"{path} is not a whole safetensors file ({error}): it is damaged or was not fetched completely. Fetch "
                "it again."
            ) from None
        except OSError as error:
            raise ModelUnavailable(f"cannot open {path}: {error}.") from None
        self.file = Stretches(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.entries: dict[str, Any] = json.loads(file.read(length))
        self.entries.pop("__metadata__", None)
        self._start = 8 + length

    def tensor(self, name: str) -> StoredTensor:
        """One that is there. Raises UnsupportedModel for types of numbers that torch does not know."""
        entry, where = self.entries[name], f"{self.path}: tensor {name!r}"
        if entry["dtype"] not in _DTYPES:
            raise UnsupportedModel(f"{where} cannot be held as a tensor: it is of type {entry['dtype']}.")
        offset = self._start + entry["data_offsets"][0]
        return StoredTensor(self.file, offset, tuple(entry["shape"]), _DTYPES[entry["dtype"]], where)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
