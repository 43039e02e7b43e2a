"""Opens a GGUF file: metadata, and tensors as views of the mapped file or rows read from it; nothing is dequantized.

Owns the file and its mapping. Law: what ``GGUFFile`` hands out lies inside the file and no two tensors share a byte; a
file for which that does not hold is refused before anything is handed out. Source: the GGUF specification, versions 2
and 3.
"""

import mmap
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from quire.checkpoint.gguf_metadata import Metadata, Reader, read_metadata
from quire.checkpoint.gguf_types import BLOCK_TYPES, IMPLEMENTED, UNIMPLEMENTED
from quire.checkpoint.stretches import Stretches
from quire.core.errors import CorruptCheckpoint, ModelUnavailable, UnsupportedModel

MAX_TENSORS = 131_072
MAX_NAME_BYTES = 256
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 65_536


class GGUFTensor(NamedTuple):
    """Where one tensor lies. ``shape`` is row-major, as Hugging Face has it: [out, in] for a linear weight."""

    name: str
    shape: tuple[int, ...]
    type: str
    """Of ``gguf_types.BLOCK_TYPES``, for instance "Q4_1"."""
    offset: int
    """From the start of the file."""
    num_bytes: int


class GGUFFile:
    """One open GGUF file. Lives in whatever process opened it; close it, or use it as a context manager.

    Raises CorruptCheckpoint for a file that is not what it claims to be, UnsupportedModel for versions, byte orders
    and tensor types that are not implemented, ModelUnavailable for a file that cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stretches = Stretches(self.path)
        try:
            self._map = _map(self._stretches, self.path)
        except BaseException:
            self._stretches.close()
            raise
        self._data = memoryview(self._map)
        reader = Reader(self._data, str(self.path))
        try:
            self.version, num_tensors, num_keys = _header(reader)
            self.metadata: Metadata = read_metadata(reader, num_keys)
            self.tensors: Mapping[str, GGUFTensor] = _tensors(reader, self.metadata, num_tensors)
        except BaseException:
            self.close()
            raise

    @property
    def main_type(self) -> str:
        """The one that most bytes are of; F32 if there are no tensors."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.type] += tensor.num_bytes
        return sizes.most_common(1)[0][0] if sizes else "F32"

    def data(self, name: str) -> np.ndarray:
        """[rows, bytes per row] uint8, a read-only view of the file; rows are all dimensions but the last.

        For small tensors: the pages of large ones would stay in memory. See ``read``.
        """
        tensor = self.tensors[name]
        rows = prod(tensor.shape[:-1])
        part = self._data[tensor.offset : tensor.offset + tensor.num_bytes]
        return np.frombuffer(part, np.uint8).reshape(rows, tensor.num_bytes // rows)

    def read(self, name: str, first: int, out: np.ndarray) -> None:
        """Read rows first .. first + len(out) of a tensor into ``out``, [rows, bytes per row] uint8, contiguous.

        A vector's rows may be its elements. Raises CorruptCheckpoint, naming file and tensor, if it cannot be read.
        """
        tensor = self.tensors[name]
        assert first >= 0 and (first + len(out)) * out.shape[1] <= tensor.num_bytes
        self._stretches.read(tensor.offset + first * out.shape[1], out, f"{self.path}: tensor {name!r}")

    def drop_pages(self) -> None:
        """Tell the system that the mapping's pages may leave memory; touching them brings them back."""
        if advice := getattr(mmap, "MADV_DONTNEED", None):
            self._map.madvise(advice)

    def close(self) -> None:
        """Close the file and unmap it; views that are still held keep it mapped until they go."""
        self._stretches.close()
        try:
            self._data.release()
            self._map.close()
        except BufferError:
            # Someone still holds a view. The mapping goes with the last of them.
            return

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _map(stretches: Stretches, path: Path) -> mmap.mmap:
    assert stretches.descriptor is not None
    try:
        return mmap.mmap(stretches.descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise CorruptCheckpoint(f"{path} is not a GGUF file: it is empty. Fetch it again.") from None
    except OSError as error:
        raise ModelUnavailable(f"cannot open {path}: {error.strerror}.") from None


def _header(reader: Reader) -> tuple[int, int, int]:
    """(version, number of tensors, number of metadata keys)."""
    magic = bytes(reader.data[:4])
    if magic != b"GGUF":
        hint = "it is a Git LFS pointer; run `git lfs pull`" if magic == b"vers" else f"it begins with {magic!r}"
        raise CorruptCheckpoint(f"{reader.file} is not a GGUF file: {hint}.")
    reader.position = 4
    version = reader.u32("the version")
    if version and version & 0xFFFF == 0:
        raise UnsupportedModel(f"{reader.file} is a big-endian GGUF file; convert it to little-endian.")
    if version not in (2, 3):
        raise UnsupportedModel(f"{reader.file} is of GGUF version {version}; 2 and 3 are supported. Convert it again.")
    return version, reader.u64("the number of tensors"), reader.u64("the number of metadata keys")


def _tensors(reader: Reader, metadata: Metadata, count: int) -> dict[str, GGUFTensor]:
    if count > MAX_TENSORS:
        raise reader.corrupt(f"it claims {count} tensors, more than the {MAX_TENSORS} allowed")
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.corrupt(f"general.alignment is {alignment!r}, not a power of two up to {MAX_ALIGNMENT}")
    tensors: dict[str, GGUFTensor] = {}
    for _ in range(count):
        tensor = _tensor_info(reader, alignment)
        if tensor.name in tensors:
            raise reader.corrupt(f"the tensor {tensor.name!r} appears twice")
        tensors[tensor.name] = tensor
    start = -(-reader.position // alignment) * alignment
    placed = {name: tensor._replace(offset=tensor.offset + start) for name, tensor in tensors.items()}
    _check_places(reader, placed)
    return placed


def _tensor_info(reader: Reader, alignment: int) -> GGUFTensor:
    """One entry of the tensor table; its offset still counts from the start of the tensor data."""
    name = reader.text("a tensor's name", MAX_NAME_BYTES)
    num_dimensions = reader.u32(f"the number of dimensions of {name!r}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise reader.corrupt(f"the tensor {name!r} has {num_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
    shape = tuple(reader.u64(f"the shape of {name!r}") for _ in range(num_dimensions))[::-1]
    code = reader.u32(f"the type of {name!r}")
    offset = reader.u64(f"the offset of {name!r}")
    if code in UNIMPLEMENTED:
        raise UnsupportedModel(
            f"{reader.file}: tensor {name!r} is of type {UNIMPLEMENTED[code]}, which is not implemented; "
            f"use a file with the types {', '.join(BLOCK_TYPES)}."
        )
    if code not in IMPLEMENTED:
        raise reader.corrupt(f"the tensor {name!r} has the unknown type {code}")
    block = IMPLEMENTED[code]
    if 0 in shape:
        raise reader.corrupt(f"the tensor {name!r} has a dimension of zero: {list(shape)}")
    if shape[-1] % block.elements:
        raise reader.corrupt(f"the rows of {name!r}, {shape[-1]} long, do not divide into {block.name} blocks")
    if offset % alignment:
        raise reader.corrupt(f"the tensor {name!r} lies at offset {offset}, which is not aligned to {alignment}")
    return GGUFTensor(name, shape, block.name, offset, prod(shape) // block.elements * block.num_bytes)


def _check_places(reader: Reader, tensors: dict[str, GGUFTensor]) -> None:
    """Every tensor lies inside the file and ends before the next begins."""
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise reader.corrupt(f"the tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.num_bytes, tensor.name
        if end > len(reader.data):
            raise reader.corrupt(f"the tensor {tensor.name!r} ends at byte {end}, beyond the end of the file")
