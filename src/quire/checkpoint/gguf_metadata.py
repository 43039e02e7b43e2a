"""Reads the key-value section of a GGUF file, trusting none of its numbers.

Owns a position in the mapped bytes. Law: every count and length is checked against the bytes that are left, and
against a fixed limit, before it is used; so time and memory are bounded by the file's size, whatever the file says.
Arrays are only stepped over here; ``Metadata`` turns them into values when first asked for, because a process that
needs tensors alone should not pay for a vocabulary. Source: the GGUF specification, versions 2 and 3.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from quire.core.errors import CorruptCheckpoint

MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535
MAX_STRINGS = 4_194_304
"""In all arrays of a file together; the largest vocabularies have a quarter of a million tokens."""
MAX_NESTED_ARRAYS = 65_536
MAX_TEXT_BYTES = 64 * 2**20
"""Of all keys, names and single strings of a file together."""
MAX_ARRAY_BYTES = 256 * 2**20

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    code: struct.Struct(fmt)
    for code, fmt in {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B"}.items()
} | {code: struct.Struct(fmt) for code, fmt in {10: "<Q", 11: "<q", 12: "<d"}.items()}
_DTYPES = {code: np.dtype(scalar.format) for code, scalar in _SCALARS.items()}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_WALK = 16_384
"""Strings stepped over between two checks of their lengths."""


class Reader:
    """Takes little-endian values from mapped bytes, one after the other; raises CorruptCheckpoint at the first lie."""

    def __init__(self, data: memoryview, file: str) -> None:
        self.data = data
        self.file = file
        self.position = 0
        self._strings_left = MAX_STRINGS
        self._arrays_left = MAX_NESTED_ARRAYS
        self._text_left = MAX_TEXT_BYTES

    def corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"{self.file} is not a sound GGUF file: {what} (at byte {self.position} of {len(self.data)}). "
            "Fetch or convert it again."
        )

    def u32(self, what: str) -> int:
        return int(self._take(_U32, what))

    def u64(self, what: str) -> int:
        return int(self._take(_U64, what))

    def text(self, what: str, limit: int | None = None) -> str:
        """A string of at most ``limit`` bytes."""
        length = self.u64(f"the length of {what}")
        if limit is not None and length > limit:
            raise self.corrupt(f"{what} claims {length} bytes, more than the {limit} allowed")
        end = self.position + self._room(length, 1, what)
        self._text_left -= length
        if self._text_left < 0:
            raise self.corrupt(f"{what}, of {length} bytes, brings all text to more than the {MAX_TEXT_BYTES} allowed")
        raw = bytes(self.data[self.position : end])
        try:
            value = raw.decode()
        except UnicodeDecodeError:
            raise self.corrupt(f"{what} is not UTF-8") from None
        self.position = end
        return value

    def value(self, key: str) -> Any:
        """A scalar, a string, or a callable that makes the array it stepped over."""
        kind = self.u32(f"the type of {key!r}")
        if kind == _STRING:
            return self.text(f"the value of {key!r}")
        if kind == _ARRAY:
            return self._array(key, nested=False)
        if kind not in _SCALARS:
            raise self.corrupt(f"{key!r} has the unknown value type {kind}")
        value = self._take(_SCALARS[kind], f"the value of {key!r}")
        if kind == _BOOL:
            if value > 1:
                raise self.corrupt(f"{key!r} is a bool of value {value}")
            return bool(value)
        return value

    def _take(self, scalar: struct.Struct, what: str) -> Any:
        self._room(1, scalar.size, what)
        (value,) = scalar.unpack_from(self.data, self.position)
        self.position += scalar.size
        return value

    def _room(self, count: int, size: int, what: str) -> int:
        """``count * size``, which must fit in what is left."""
        if count * size > len(self.data) - self.position:
            raise self.corrupt(f"{what} claims {count} x {size} bytes, but {len(self.data) - self.position} are left")
        return count * size

    def _array(self, key: str, *, nested: bool) -> Callable[[], Any]:
        kind = self.u32(f"the element type of {key!r}")
        count = self.u64(f"the length of {key!r}")
        if kind == _STRING:
            return self._strings(key, count)
        if kind == _ARRAY:
            return self._arrays(key, count, nested)
        if kind not in _SCALARS:
            raise self.corrupt(f"{key!r} is an array of the unknown type {kind}")
        start = self.position
        self.position += self._room(count, _DTYPES[kind].itemsize, f"array {key!r}")
        self._check_array_bytes(key, start)
        return _Numbers(self, start, self.position, kind, key)

    def _arrays(self, key: str, count: int, nested: bool) -> Callable[[], list[Any]]:
        if nested:
            raise self.corrupt(f"{key!r} nests arrays more than two deep")
        self._room(count, _U32.size + _U64.size, f"array {key!r}")
        self._arrays_left -= count
        if self._arrays_left < 0:
            raise self.corrupt(f"{key!r} brings nested arrays to more than the {MAX_NESTED_ARRAYS} allowed")
        makers = [self._array(key, nested=True) for _ in range(count)]
        return lambda: [make() for make in makers]

    def _strings(self, key: str, count: int) -> Callable[[], list[str]]:
        self._room(count, _U64.size, f"array {key!r}")
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.corrupt(f"array {key!r} brings the strings of all arrays to more than the {MAX_STRINGS} allowed")
        starts = np.empty(count, np.int64)
        for done in range(0, count, _WALK):
            starts[done : done + _WALK] = self._step_over(min(_WALK, count - done), key)
        self._check_array_bytes(key, int(starts[0]) if count else self.position)
        return _Strings(self, starts, self.position, key)

    def _check_array_bytes(self, key: str, start: int) -> None:
        if self.position - start > MAX_ARRAY_BYTES:
            raise self.corrupt(f"array {key!r} takes {self.position - start} bytes; {MAX_ARRAY_BYTES} are allowed")

    def _step_over(self, count: int, key: str) -> np.ndarray:
        """Move past ``count`` strings; [count] int64 positions of their lengths."""
        data, position = self.data, self.position
        starts: list[int] = []
        # Nearly every string is shorter than 256 bytes, so its length is one byte and seven zeros. Step on that
        # guess, then look at all the zeros at once.
        try:
            for _ in range(count):
                starts.append(position)
                position += 8 + data[position]
        except IndexError:
            position = len(data) + 1
        if position <= len(data):
            found = np.array(starts, np.int64)
            if not np.frombuffer(data, np.uint8)[found[:, None] + np.arange(1, 8)].any():
                self.position = position
                return found
        return self._step_over_long(count, key)

    def _step_over_long(self, count: int, key: str) -> np.ndarray:
        starts = np.empty(count, np.int64)
        for index in range(count):
            starts[index] = self.position
            length = self.u64(f"a string of {key!r}")
            self.position += self._room(length, 1, f"a string of {key!r}")
        return starts


class _Numbers:
    """An array of numbers, still in the file."""

    def __init__(self, reader: Reader, start: int, end: int, kind: int, key: str) -> None:
        self._reader, self._start, self._end, self._kind, self._key = reader, start, end, kind, key

    def __call__(self) -> np.ndarray:
        values = np.frombuffer(self._reader.data[self._start : self._end], _DTYPES[self._kind]).copy()
        if self._kind != _BOOL:
            return values
        if values.size and values.max() > 1:
            raise self._reader.corrupt(f"{self._key!r} holds a bool that is neither 0 nor 1")
        return values.astype(np.bool_)


class _Strings:
    """An array of strings, still in the file: where each begins (with its length), and where the last ends."""

    def __init__(self, reader: Reader, starts: np.ndarray, end: int, key: str) -> None:
        self._reader, self._starts, self._end, self._key = reader, starts, end, key

    def __call__(self) -> list[str]:
        if not len(self._starts):
            return []
        try:
            return self._all_at_once() or self._one_by_one()
        except UnicodeDecodeError:
            raise self._reader.corrupt(f"{self._key!r} holds a string that is not UTF-8") from None

    def _all_at_once(self) -> list[str] | None:
        """Put a NUL in the place of each length, decode once, split at the NULs; None if a string holds one itself."""
        first = int(self._starts[0])
        blob = np.frombuffer(self._reader.data[first : self._end], np.uint8).copy()
        keep = np.ones(len(blob), np.bool_)
        starts = self._starts - first
        blob[starts] = 0
        for byte in range(1, 8):
            keep[starts + byte] = False
        blob = blob[keep]
        if len(blob) - np.count_nonzero(blob) != len(starts):
            return None
        return blob[1:].tobytes().decode().split("\0")

    def _one_by_one(self) -> list[str]:
        ends = [*self._starts[1:].tolist(), self._end]
        data = self._reader.data
        return [bytes(data[start + 8 : end]).decode() for start, end in zip(self._starts.tolist(), ends, strict=True)]


class Metadata(Mapping[str, Any]):
    """Keys and values of a GGUF file: int, float, bool, str; arrays as numpy arrays (numbers) or lists (strings).

    An array is read when first asked for, so asking may raise CorruptCheckpoint (text that is not UTF-8), and must
    not happen for the first time after the file is closed.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if callable(value):
            value = self._values[key] = value()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_metadata(reader: Reader, count: int) -> Metadata:
    """The next ``count`` key-value pairs."""
    if count > MAX_KEYS:
        raise reader.corrupt(f"it claims {count} metadata keys, more than the {MAX_KEYS} allowed")
    values: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text("a metadata key", MAX_KEY_BYTES)
        if key in values:
            raise reader.corrupt(f"the metadata key {key!r} appears twice")
        values[key] = reader.value(key)
    return Metadata(values)
