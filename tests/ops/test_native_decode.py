"""The ends of a decode step: inputs are gathered from what is known of all slots, and what it chose is noted there."""

from typing import Any

import numpy as np
import pytest
import torch

from quire.decoding.random import uniforms
from quire.kernels.cpu.library import Decode, SlotDraws
from quire.kernels.cpu.program import CannotRecord, Program, Rows
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.sampling import Draws

pytestmark = pytest.mark.native

SLOTS, LENGTH, BLOCK, BLOCKS = 5, 24, 8, 3
OUTPUTS = {
    "ids": ((SLOTS,), np.int64),
    "kv_slots": ((SLOTS,), np.int64),
    "step_tables": ((SLOTS, BLOCKS), np.int32),
    "context_lens": ((SLOTS,), np.int32),
    "query_starts": ((SLOTS + 1,), np.int32),
    "asked_starts": ((SLOTS + 1,), np.int32),
    "asked": ((SLOTS,), np.int64),
    "rows": ((SLOTS,), np.int64),
}


class Ends:
    """All arrays of a decode step; those that it writes hold -7."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.slots, self.positions = np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64)
        self.tokens = rng.integers(0, 1000, (SLOTS, LENGTH), dtype=np.int32)
        self.tables = rng.integers(0, 1000, (SLOTS, BLOCKS), dtype=np.int32)
        self.written = {name: np.full(shape, -7, dtype) for name, (shape, dtype) in OUTPUTS.items()}
        self.chosen = np.arange(SLOTS, dtype=np.int32) + 5000

    def native(self, **sizes: int) -> Decode:
        inputs = {name: getattr(self, name).ctypes.data for name in ("slots", "positions", "tokens", "tables")}
        outputs = {name: array.ctypes.data for name, array in self.written.items()}
        return Decode(**inputs, **outputs, **({"token_stride": LENGTH, "table_stride": BLOCKS, "block": BLOCK} | sizes))

    def program(self, native: Any) -> Program:
        """Of the two ends, in programs of their own that are gone."""
        whole = Program(native.library, dict.fromkeys(Rows, SLOTS))
        for name, *more in (("quire_begin_decode",), ("quire_end_decode", self.chosen.ctypes.data)):
            part = Program(native.library, dict.fromkeys(Rows, SLOTS))
            part.append(name, self.native(), *more)
            whole.append("quire_append_program", part._address)
            assert len(part) == 1
        return whole


def test_a_step_finds_its_inputs_and_leaves_its_tokens(native: Any) -> None:
    ends = Ends()
    program = ends.program(native)
    assert len(program) == 2
    slots, positions = np.array([4, 0, 3]), np.array([8, LENGTH - 1, 0])
    ends.slots[:3], ends.positions[:3] = slots, positions
    ends.tokens[3, 0] = -1
    before = ends.tokens.copy()
    program.run(native.pool, sequences=3)

    written = ends.written
    assert written["ids"][:3].tolist() == [before[4, 8], before[0, LENGTH - 1], 0], "what failed reads as 0"
    blocks = ends.tables[slots, positions // BLOCK].astype(np.int64)
    assert np.array_equal(written["kv_slots"][:3], blocks * BLOCK + positions % BLOCK)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        held = position // BLOCK + 1
        assert np.array_equal(written["step_tables"][row, :held], ends.tables[slot, :held])
        assert (written["step_tables"][row, held:] == -7).all()
    assert np.array_equal(written["context_lens"][:3], positions + 1)
    for name in ("query_starts", "asked_starts"):
        assert written[name].tolist() == [0, 1, 2, 3, -7, -7]
    for name in ("asked", "rows"):
        assert written[name].tolist() == [0, 1, 2, -7, -7]
    assert all((written[name][3:] == -7).all() for name in OUTPUTS if not name.endswith("starts"))

    before[4, 9], before[3, 1] = ends.chosen[[0, 2]]  # the sequence in slot 0 is full
    assert np.array_equal(ends.tokens, before)


@pytest.mark.parametrize("size", ["token_stride", "table_stride", "block"])
def test_sizes_that_cannot_be(native: Any, size: str) -> None:
    ends, program = Ends(), Program(native.library, dict.fromkeys(Rows, SLOTS))
    for name, *more in (("quire_begin_decode",), ("quire_end_decode", ends.chosen.ctypes.data)):
        with pytest.raises(CannotRecord, match=name):
            program.append(name, ends.native(**{size: 0}), *more)
    assert len(program) == 0


@pytest.mark.parametrize("vocab_size", [50, 40_000])
def test_slots_draw_what_rows_would(native: Any, vocab_size: int) -> None:
    """Whatever a slot wants: the likeliest, a cut by each rule or by none; of NaN, nothing."""
    num_slots, rng = 64, np.random.default_rng(1)
    each = np.arange(num_slots)
    wanted = {
        "temperature": np.where(each % 4, 0.8 + each / 100, 0).astype(np.float32),
        "log_min_p": np.where(each % 5, -np.inf, -3).astype(np.float32),
        "top_k": np.where(each % 3, vocab_size, 1 + each % 40),
        "top_p": np.where(each % 2, 1.0, 0.9),
    }
    seeds = rng.integers(0, 2**64, num_slots, dtype=np.uint64)
    slots = rng.permutation(num_slots)[:40]
    positions = rng.integers(0, 2**40, len(slots))
    logits = torch.from_numpy(rng.normal(0, 3, (len(slots), vocab_size)).astype(np.float32))
    logits[7, 3] = torch.nan
    rows = {name: array[slots] for name, array in wanted.items()}
    draws = Draws(**rows, uniforms=uniforms(seeds[slots], positions + 1))
    expected = NativeSampling(native.library, native.pool).draw_tokens(logits, draws)
    assert expected[7] == -1 and len(set(expected.tolist())) > 10

    ids = np.full(len(slots) + 1, -7, np.int32)
    program = Program(native.library, dict.fromkeys(Rows, num_slots))
    arrays = {"slots": slots, "positions": positions, **wanted, "seed": seeds}
    asked = SlotDraws(**{name: array.ctypes.data for name, array in arrays.items()})
    program.append("quire_draw_slots", logits, logits.stride(0), vocab_size, asked, ids.ctypes.data)
    program.run(native.pool, sequences=len(slots))
    assert ids.tolist() == [*expected.tolist(), -7]
    with pytest.raises(CannotRecord):
        program.append("quire_draw_slots", logits, logits.stride(0), 2**21, asked, ids.ctypes.data)
