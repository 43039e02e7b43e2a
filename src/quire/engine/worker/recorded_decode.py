"""Steps in which each sequence computes one token: one native call, which finds its inputs and notes what it chose.

For what Python touches between two steps is out of the caches, since a step reads all weights: each function that runs
there takes some microseconds, and the hundred or so of a longer way took a seventh of a small model's step.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from quire.decoding.slots import Choice, SlotParameters
from quire.engine.worker.recorded_trial import append_draw
from quire.engine.worker.slot_tokens import HostTokens
from quire.kernels.cpu.library import Decode, Pool
from quire.kernels.cpu.program import Program, address
from quire.model.attention.native import NativeAttention


class Inputs(NamedTuple):
    """Where the programs of a model read what a step is."""

    tokens: Tensor
    """[T] int64."""
    positions: Tensor
    """[T] int64."""
    rows: Tensor
    """[R] int64: those that a head takes, of the hidden states that are asked for."""
    attention: NativeAttention
    """Has its own."""


class _Advance(NamedTuple):
    program: Program
    ids: np.ndarray
    """[most] int32: what it chose."""


class RecordedDecode:
    """A model's programs between two ends. Lives on a worker, as they do; not thread-safe."""

    def __init__(self, body: Program, pool: Pool, inputs: Inputs, tokens: HostTokens) -> None:
        """``tokens``: all that is known of the sequences, by slot."""
        self._pool, self._body = pool, body
        self._tokens = tokens  # whose addresses the programs have
        most = inputs.attention.max_seqs
        self._slots, self._positions = np.zeros(most, np.int64), inputs.positions.numpy()[:most]
        self._ends = _ends(self._slots, inputs, tokens)
        self._hidden = self._begin()
        self._advances: dict[Choice, _Advance] = {}

    def record_likeliest(self, head: Program, ids: Tensor) -> None:
        """Have Choice.LIKELIEST made by a head that finds ``ids`` [R] int32."""
        program = self._begin()
        program.extend(head)
        self._end(Choice.LIKELIEST, program, ids.numpy())

    def record_draws(self, head: Program, logits: Tensor, parameters: SlotParameters) -> None:
        """Have Choice.DRAWN and Choice.LED made from a head's ``logits`` [R, V] float32."""
        program = self._begin()
        program.extend(head)
        ids = append_draw(program, logits, parameters, self._slots, self._positions)
        self._end(Choice.DRAWN, program, ids)
        self._advances[Choice.LED] = self._advances[Choice.DRAWN]

    def run(self, slots: np.ndarray, positions: np.ndarray) -> None:
        """Compute the hidden states of the tokens at ``positions`` [S] of ``slots`` [S]."""
        self._run(self._hidden, slots, positions)

    def advance(self, slots: np.ndarray, positions: np.ndarray, choice: Choice) -> np.ndarray | None:
        """See Forward.advance."""
        found = self._advances.get(choice)
        if found is None:
            return None
        self._run(found.program, slots, positions)
        return found.ids[: slots.size].copy()

    def _run(self, program: Program, slots: np.ndarray, positions: np.ndarray) -> None:
        count = slots.size
        self._slots[:count] = slots
        self._positions[:count] = positions
        program.run(self._pool, tokens=count, sequences=count, asked=count, sampled=count)

    def _begin(self) -> Program:
        program = Program(self._body.library, self._body.capacity)
        program.append("quire_begin_decode", self._ends)
        program.extend(self._body)
        return program

    def _end(self, choice: Choice, program: Program, ids: np.ndarray) -> None:
        program.append("quire_end_decode", self._ends, ids.ctypes.data)
        self._advances[choice] = _Advance(program, ids)


def _ends(slots: np.ndarray, inputs: Inputs, tokens: HostTokens) -> Decode:
    attention = inputs.attention
    room, narrow, tables = attention.room, attention.narrow_room, tokens.block_tables
    assert tables.shape[1] == room.block_tables.shape[1], "of sequences of other lengths"
    return Decode(
        slots=slots.ctypes.data,
        positions=address(inputs.positions),
        tokens=tokens.tokens.ctypes.data,
        token_stride=tokens.tokens.shape[1],
        tables=tables.ctypes.data,
        table_stride=tables.shape[1],
        block=attention.block_size,
        ids=address(inputs.tokens),
        kv_slots=address(room.slot_mapping),
        step_tables=address(room.block_tables),
        context_lens=address(room.context_lens),
        query_starts=address(room.query_starts),
        asked_starts=address(narrow.query_starts),
        asked=address(narrow.rows),
        rows=address(inputs.rows),
    )
