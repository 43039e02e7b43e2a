"""Records what a model does as a program of native operators, and replays it.

A model is run once with *recorded* tensors in the place of its activations. They are real tensors, over buffers of the
program with room for its greatest step; views of them are torch's. But an operator called with one computes nothing:
its body for ``"program"`` appends a native operator to the tensor's program and returns the recorded result. Replaying
is one call; only row counts change from step to step.

Owns the buffers between operators. A buffer is free again as soon as no recorded tensor refers to it: since operators
run in the order in which they were recorded, Python's own reference counts are the live ranges.

Law: nothing but operators and views may touch a recorded tensor; anything else raises CannotRecord.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.core.errors import UnsupportedModel
from quire.kernels.cpu.library import NUM_COUNTS, Library, Pool

DTYPES: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
"""What activations may be, by the header's numbers."""


class Rows(IntEnum):
    """The count that a tensor's first dimension follows, by the header's numbers."""

    TOKENS = 0
    SEQUENCES = 1
    ASKED = 2
    SAMPLED = 3


class CannotRecord(UnsupportedModel):
    """A model does something with its activations that is no operator."""


class Recorded(Tensor):
    """An activation of a program: a view of a buffer whose first dimension has room for the greatest step."""

    body = "program"
    """The operators' bodies that take it."""
    program: "Program"
    rows: Rows
    lease: "_Lease | None"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Let views and questions through, with the program at their side."""
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        source = next(arg for arg in args if isinstance(arg, Recorded))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(tensor, Recorded):
                continue
            if not _is_view(tensor, source):
                raise CannotRecord(
                    f"{getattr(func, '__name__', func)} is no operator of kernels/ops, and cannot be recorded."
                )
            tensor.program, tensor.rows, tensor.lease = source.program, source.rows, source.lease
        return result


class Program:
    """A list of native operators over fixed buffers. Lives on a worker, with the model it was recorded from."""

    def __init__(self, library: Library, capacity: Mapping[Rows, int]) -> None:
        """``capacity``: the greatest count of each kind of rows in a step."""
        self.library = library
        self.capacity = dict(capacity)
        self._address = library.quire_program_create()
        if not self._address:
            raise MemoryError("no memory for a program")
        self._counts = (ctypes.c_int64 * NUM_COUNTS)()
        self._counts_address = ctypes.addressof(self._counts)
        self._run = library.quire_run
        self._kept: list[Any] = []  # what operators refer to by address
        self._free: dict[int, list[Tensor]] = {}  # buffers by size in bytes

    def __del__(self) -> None:
        self.library.quire_program_destroy(self._address)

    def __len__(self) -> int:
        return int(self.library.quire_program_length(self._address))

    def wrap(self, tensor: Tensor, rows: Rows) -> Recorded:
        """The caller's own tensor as an input or output: its address is fixed from now on."""
        self._kept.append(tensor)
        return self._recorded(tensor, rows, None)

    def empty(self, rows: Rows, shape: Sequence[int], dtype: torch.dtype) -> Recorded:
        """A buffer of [capacity of rows, *shape], free again when nothing recorded refers to it."""
        full = (self.capacity[rows], *shape)
        num_bytes = -(-int(np.prod(full)) * dtype.itemsize // 64) * 64
        waiting = self._free.get(num_bytes)
        buffer = waiting.pop() if waiting else _aligned(num_bytes)
        self._kept.append(buffer)
        view = buffer[: int(np.prod(full)) * dtype.itemsize].view(dtype).view(full)
        return self._recorded(view, rows, _Lease(self._free.setdefault(num_bytes, []), buffer))

    def keep(self, thing: Any) -> None:
        """Hold what an operator refers to by address, for as long as the program."""
        self._kept.append(thing)

    def append(self, name: str, *args: Any) -> None:
        """Append operator ``name`` of the header. Tensors become addresses, and must not move."""
        plain = [_plain(arg) for arg in args]
        code = getattr(self.library, name)(self._address, *plain)
        if code == -2:
            raise MemoryError("no memory for a program")
        if code:
            facts = ", ".join(str(int(arg)) for arg in args if isinstance(arg, int))
            raise CannotRecord(f"{name} refuses its sizes or types: {facts}")

    def extend(self, other: "Program") -> None:
        """Append all operators of another program, which keeps them."""
        self._kept.append(other)
        self.append("quire_append_program", other._address)

    def run(self, pool: Pool, *, tokens: int = 0, sequences: int = 0, asked: int = 0, sampled: int = 0) -> None:
        """Replay all operators for these counts of rows. Other Python threads run meanwhile."""
        self._counts[:] = [tokens, sequences, asked, sampled]
        code = self._run(pool.address, self._address, self._counts_address)
        assert code == 0, f"quire_run: {code}"

    def profile(
        self, pool: Pool, *, tokens: int = 0, sequences: int = 0, asked: int = 0, sampled: int = 0
    ) -> list[tuple[str, int]]:
        """Replay, and tell each operator's name and nanoseconds."""
        times = np.zeros(len(self), np.int64)
        self._counts[:] = [tokens, sequences, asked, sampled]
        self.library.quire_run_timed(pool.address, self._address, self._counts_address, times.ctypes.data)
        names = [self.library.quire_operator_name(self._address, i).decode() for i in range(len(self))]
        return list(zip(names, times.tolist(), strict=True))

    def _recorded(self, tensor: Tensor, rows: Rows, lease: "_Lease | None") -> Recorded:
        recorded = tensor.as_subclass(Recorded)
        recorded.program, recorded.rows, recorded.lease = self, rows, lease
        return recorded


class _Lease:
    """A buffer in use; gives it back when the last tensor over it is gone."""

    def __init__(self, home: list[Tensor], buffer: Tensor) -> None:
        self._home, self._buffer = home, buffer

    def __del__(self) -> None:
        self._home.append(self._buffer)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's first element lies; None stays None, C's NULL."""
    return None if tensor is None else torch.Tensor.data_ptr(tensor)


def stride(tensor: Tensor) -> int:
    """Elements from row to row; what a row holds must be adjacent."""
    return tensor.stride(0)


def _plain(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return address(arg)
    return ctypes.addressof(arg) if isinstance(arg, ctypes.Structure) else arg


def _is_view(tensor: Tensor, source: Tensor) -> bool:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def _aligned(num_bytes: int) -> Tensor:
    """Bytes at a multiple of 64, not touched, so that a step smaller than the greatest takes less memory."""
    raw = np.empty(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return torch.from_numpy(raw[start : start + num_bytes])
