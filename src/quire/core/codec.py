"""How values cross a process: msgpack of msgspec structs and numpy arrays. Never pickle.

An array is an extension of code 1: one byte for the type, one for the number of dimensions, the sizes as uint32, the
bytes. Only the types below are read, sizes must account for every byte, and decoded arrays are read-only views of the
message.
"""

import struct
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")

_ARRAY = 1
_DTYPES = {code: np.dtype(name) for code, name in enumerate(("bool", "<i4", "<i8", "<f4", "<f8", "<u8"), start=1)}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        header = struct.pack(f"<BB{value.ndim}I", _CODES[value.dtype], value.ndim, *value.shape)
        return msgspec.msgpack.Ext(_ARRAY, header + value.tobytes())
    raise TypeError(f"cannot send a {type(value).__name__}")


def _decode_ext(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    dtype_code, ndim = struct.unpack_from("<BB", data)
    if dtype_code not in _DTYPES or ndim > 4:
        raise ValueError("malformed array")
    shape = struct.unpack_from(f"<{ndim}I", data, 2)
    return np.frombuffer(data, _DTYPES[dtype_code], offset=2 + 4 * ndim).reshape(shape)


def _decode(wanted: type, value: Any) -> Any:
    if wanted is np.ndarray and isinstance(value, np.ndarray):
        return value
    raise TypeError(f"expected {wanted}, got {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode)


def encode(value: Any) -> bytes:
    """Struct to msgpack bytes."""
    return _encoder.encode(value)


class Decoder(Generic[T]):
    """Bytes to a value of one type (or tagged union); raises msgspec.DecodeError on anything else."""

    def __init__(self, wanted: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(wanted, ext_hook=_decode_ext, dec_hook=_decode)

    def decode(self, data: bytes | memoryview) -> T:
        try:
            value: T = self._decoder.decode(data)
        except (ValueError, struct.error) as error:
            raise msgspec.DecodeError(str(error)) from None
        return value
