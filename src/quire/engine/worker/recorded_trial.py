"""A head that draws for slots, by the parameters that the sampler has of them.

It reads the sampler's arrays where they lie: to gather them row by row, and to have tokens drawn by calls of their own,
took a thirtieth of a small model's step.
"""

import ctypes

import numpy as np
from torch import Tensor

from quire.decoding.slots import SlotParameters
from quire.kernels.cpu.library import Pool, SlotDraws
from quire.kernels.cpu.program import Program


def append_draw(
    program: Program, logits: Tensor, parameters: SlotParameters, slots: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Have ``slots`` [n] draw from ``logits`` [n, V] float32 the tokens behind ``positions`` [n], both int64.

    Returns where these will be, [n] int32, with UNSURE where it depends on what a guide forbids; n is a replay's count
    of sequences.
    """
    ids = np.zeros(slots.size, np.int32)
    program.keep(parameters)
    draws = _draws(parameters, slots, positions)
    program.append("quire_draw_slots", logits, logits.stride(0), logits.shape[1], draws, ids.ctypes.data)
    return ids


class RecordedTrial:
    """What slots would take, and what else they take. Lives on a worker; not thread-safe."""

    def __init__(self, head: Program, pool: Pool, rows: Tensor, logits: Tensor, parameters: SlotParameters) -> None:
        """``head`` computes ``logits`` [R, V] of ``rows`` [R] int64. Others may compute them, too."""
        self._pool, self._rows, self._logits = pool, rows.numpy(), logits
        self._slots, self._positions = np.zeros((2, len(rows)), np.int64)
        self._program = Program(head.library, head.capacity)
        self._program.extend(head)
        self._ids = append_draw(self._program, logits, parameters, self._slots, self._positions)
        self._draws = _draws(parameters, self._slots, self._positions)

    def run(self, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """See Trial.run."""
        count = len(rows)
        self._rows[:count] = rows
        self._tell(slots, positions)
        self._program.run(self._pool, sequences=count, sampled=count)
        return self._ids[:count].copy()

    def redraw(self, rows: np.ndarray, slots: np.ndarray, positions: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """See Trial.redraw."""
        count, logits = len(rows), self._logits
        assert masks.dtype == np.int32 and masks.strides[1] == masks.itemsize and masks.shape[0] == count
        self._rows[:count] = rows
        self._tell(slots, positions)
        code = self._program.library.quire_redraw_slots(
            self._pool.address,
            logits.data_ptr(),
            logits.stride(0),
            self._rows.ctypes.data,
            count,
            logits.shape[1],
            ctypes.addressof(self._draws),
            masks.ctypes.data,
            masks.strides[0] // masks.itemsize,
            self._ids.ctypes.data,
        )
        assert code == 0, f"quire_redraw_slots: {code}"
        return self._ids[:count].copy()

    def _tell(self, slots: np.ndarray, positions: np.ndarray) -> None:
        count = len(slots)
        self._slots[:count] = slots
        np.subtract(positions, 1, out=self._positions[:count])


def _draws(parameters: SlotParameters, slots: np.ndarray, positions: np.ndarray) -> SlotDraws:
    wishes = {name: getattr(parameters, name).ctypes.data for name in SlotDraws.WISHES}
    return SlotDraws(slots=slots.ctypes.data, positions=positions.ctypes.data, **wishes)
