"""Opens the native kernels: one shared object for each instruction-set level, of which this processor runs the best.

Owns the boundary to C: names, argument types, error codes. The objects lie beside this file, or in the folder that
QUIRE_NATIVE_DIR names. Everything they do is declared, with its laws, in ``csrc/quire.h``.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from quire.core.errors import ConfigError

LEVELS = ("v4n", "v4", "v3", "v2")
"""Best first: AVX-512 with bfloat16 and int8 dot products, AVX-512, AVX2, SSE4.2."""

NUM_COUNTS = 4

_HUGE_PAGE = 2 << 20
_CHUNK = 64 << 20
"""Mapped at once, at least."""
_ALIGNMENT = 4096

_TYPES: Mapping[str, Any] = MappingProxyType(
    {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float, "s": ctypes.c_char_p}
)
_SIGNATURES: Mapping[str, str] = MappingProxyType(
    {
        # name: result, arguments
        "quire_level": "s",
        "quire_runs_here": "i",
        "quire_tile_width": "l",
        "quire_pool_create": "p l",
        "quire_pool_destroy": "i p",
        "quire_program_create": "p",
        "quire_program_destroy": "i p",
        "quire_program_length": "l p",
        "quire_append_program": "i pp",
        "quire_run": "i ppp",
        "quire_run_timed": "i pppp",
        "quire_operator_name": "s pl",
        "quire_allocate": "p l",
        "quire_release": "i pl",
        "quire_packed_bytes": "l lli",
        "quire_pack": "i ppllllip",
        "quire_linear": "i piplpllip",
        "quire_embed": "i pippllifpl",
        "quire_packed_blocks_bytes": "l lli",
        "quire_pack_blocks": "i ppllllip",
        "quire_blocks_workspace_bytes": "l ll",
        "quire_linear_blocks": "i piplplliipp",
        "quire_embed_blocks": "i pipplliifpl",
        "quire_rms_norm": "i pipllpfplipl",
        "quire_take_rows": "i piplplipl",
        "quire_gated": "i piplliipl",
        "quire_angles": "i pipplfpp",
        "quire_store_heads": "i pipllllppfppppplipli",
        "quire_begin_decode": "i pp",
        "quire_end_decode": "i ppp",
        "quire_draw_slots": "i ppllpp",
        "quire_draw_tokens": "i pplpllpp",
        "quire_redraw_slots": "i pplpllpplp",
        "quire_score_tokens": "i pplpllpllppp",
        "quire_keep_allowed": "i pplpllplp",
        "quire_attention": "i pplppplppllllflfipli",
    }
)


class Output(ctypes.Structure):
    """``quire_output``: what becomes of a matrix product."""

    STORE, LIKELIEST = 0, 1

    _fields_ = (
        ("y", ctypes.c_void_p),
        ("y_stride", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("residual_stride", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("softcap", ctypes.c_float),
        ("kind", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class Decode(ctypes.Structure):
    """``quire_decode``: where a step that computes one token of each sequence finds and leaves what."""

    _fields_ = (
        ("slots", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("token_stride", ctypes.c_int64),
        ("tables", ctypes.c_void_p),
        ("table_stride", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("kv_slots", ctypes.c_void_p),
        ("step_tables", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p),
        ("query_starts", ctypes.c_void_p),
        ("asked_starts", ctypes.c_void_p),
        ("asked", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
    )


class SlotDraws(ctypes.Structure):
    """``quire_slot_draws``: a decode step's rows, and what each slot wants of a draw, as addresses of arrays."""

    WISHES = ("temperature", "log_min_p", "top_k", "top_p", "seed", "is_guided")
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("slots", "positions", *WISHES))


class DrawArrays(ctypes.Structure):
    """``quire_draws``: what each row wants of a draw, as addresses of arrays."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("temperature", "log_min_p", "top_k", "top_p", "uniforms", "free")
    )


class Library:
    """One opened object. ``level`` is a name of LEVELS; cheap to open again, since the system opens a file once."""

    def __init__(self, path: Path) -> None:
        self._object = ctypes.CDLL(str(path))
        for name, signature in _SIGNATURES.items():
            result, _, arguments = signature.partition(" ")
            try:
                function = getattr(self._object, name)
            except AttributeError:
                raise ConfigError(f"{path} has no {name}: it was built from other sources; run make native.") from None
            function.restype = _TYPES[result]
            function.argtypes = [_TYPES[letter] for letter in arguments]
        self._unused = np.empty(0, np.uint8)
        self.level: str = self._object.quire_level().decode()
        self.tile_width: int = self._object.quire_tile_width()

    def __getattr__(self, name: str) -> Any:
        """A function of the header, by its full name."""
        return getattr(self._object, name)

    @property
    def runs_here(self) -> bool:
        """Whether this processor has all its instructions."""
        return bool(self._object.quire_runs_here())

    def allocate(self, num_bytes: int) -> np.ndarray:
        """Zeroed bytes, right behind those allocated before. Raises MemoryError.

        A huge page takes many matrices: each on its own would fill few whole ones, and a step that reads all weights
        waits a fifth longer where they lie in small pages. Memory is given back when the last array over it is gone.
        """
        size = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        if size > len(self._unused):
            self._unused = self._map(max(size, _CHUNK))
        taken, self._unused = self._unused[:num_bytes], self._unused[size:]
        return taken

    def end_chunk(self) -> None:
        """Allocate from new memory from here on, so that what was allocated can go when its arrays do."""
        self._unused = self._unused[:0].copy()

    def _map(self, num_bytes: int) -> np.ndarray:
        """Zeroed bytes that begin with a huge page; what is not touched takes no memory."""
        full = num_bytes + _HUGE_PAGE
        address = self._object.quire_allocate(full)
        if not address:
            raise MemoryError(f"no memory for {num_bytes} bytes of weights")
        return np.asarray(_Memory(self._object, address, full))[-address % _HUGE_PAGE :][:num_bytes]


class _Memory:
    """Memory of the library's, as numpy likes to find it."""

    def __init__(self, opened: ctypes.CDLL, address: int, num_bytes: int) -> None:
        self._object, self._address, self._num_bytes = opened, address, num_bytes
        self.__array_interface__ = {"version": 3, "shape": (num_bytes,), "typestr": "|u1", "data": (address, False)}

    def __del__(self) -> None:
        self._object.quire_release(self._address, self._num_bytes)


class Pool:
    """Threads that run programs; the caller is one of them. Lives on a worker; idle, it sleeps."""

    def __init__(self, library: Library, num_threads: int) -> None:
        self.num_threads = num_threads
        self._library = library
        self.address: int | None = library.quire_pool_create(num_threads)
        if not self.address:
            raise ConfigError(f"num_threads is {num_threads}, but that many threads cannot be started: use fewer.")

    def close(self) -> None:
        """End the threads."""
        if self.address:
            self._library.quire_pool_destroy(self.address)
            self.address = None

    def __del__(self) -> None:
        self.close()


def folder() -> Path:
    """Where the objects lie."""
    return Path(os.environ.get("QUIRE_NATIVE_DIR") or Path(__file__).parent)


def available() -> list[Library]:
    """The objects that are there and run on this processor, best first.

    QUIRE_CPU_LEVEL, one of LEVELS, leaves only that one: to see how another processor would fare. Raises ConfigError
    for objects that were built from other sources.
    """
    wanted = os.environ.get("QUIRE_CPU_LEVEL")
    if wanted and wanted not in LEVELS:
        raise ConfigError(f"QUIRE_CPU_LEVEL is {wanted!r}: it must be one of {', '.join(LEVELS)}.")
    paths = [folder() / f"libquire_{level}.so" for level in LEVELS if wanted in (None, "", level)]
    opened = [Library(path) for path in paths if path.exists()]
    return [library for library in opened if library.runs_here]
