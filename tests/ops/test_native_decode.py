"""The ends of a decode step: inputs are gathered from what is known of all slots, and what it chose is noted there."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quire.decoding.random import second_uniforms, uniforms
from quire.kernels.cpu.library import Decode, SlotDraws
from quire.kernels.cpu.program import CannotRecord, Program, Rows
from quire.kernels.cpu.sampling import NativeSampling
from quire.kernels.ops.sampling import NO_TOKEN, UNSURE, Draws, by_temperature_alone, keep_free

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
    arrays = {"slots": slots, "positions": positions, **wanted, "seed": seeds, "is_guided": np.zeros(num_slots, bool)}
    asked = SlotDraws(**{name: array.ctypes.data for name, array in arrays.items()})
    program.append("quire_draw_slots", logits, logits.stride(0), vocab_size, asked, ids.ctypes.data)
    program.run(native.pool, sequences=len(slots))
    assert ids.tolist() == [*expected.tolist(), -7]
    with pytest.raises(CannotRecord):
        program.append("quire_draw_slots", logits, logits.stride(0), 2**21, asked, ids.ctypes.data)


class Slots:
    """Sequences that want each sort of draw, and logits for them: peaked ones, flat ones, and with several best."""

    def __init__(self, native: Any, vocab_size: int, num_slots: int = 96) -> None:
        self.native, self.vocab_size, self.count = native, vocab_size, num_slots
        rng, each = np.random.default_rng(vocab_size), np.arange(num_slots)
        self.arrays = {
            "slots": each.copy(),
            "positions": rng.integers(0, 2**30, num_slots),
            "temperature": np.where(each % 8, 0.8 + each / 200, 0).astype(np.float32),
            "log_min_p": np.where(each % 5, -np.inf, -3).astype(np.float32),
            "top_k": np.where(each % 3, vocab_size, 1 + each % 40),
            "top_p": np.where(each % 2, 1.0, 0.8),
            "seed": rng.integers(0, 2**64, num_slots, dtype=np.uint64),
            "is_guided": np.zeros(num_slots, bool),
        }
        logits = rng.normal(0, 1, (num_slots, vocab_size))
        logits[each, rng.integers(0, vocab_size, num_slots)] += np.log(vocab_size) + each % 5 - 1
        logits[::9] = np.round(logits[::9])
        self.logits = torch.from_numpy(logits.astype(np.float32))

    @property
    def draws(self) -> SlotDraws:
        return SlotDraws(**{name: array.ctypes.data for name, array in self.arrays.items()})

    def draw(self, *, is_guided: bool) -> np.ndarray:
        self.arrays["is_guided"][:] = is_guided
        ids = np.zeros(self.count, np.int32)
        program = Program(self.native.library, dict.fromkeys(Rows, self.count))
        program.append(
            "quire_draw_slots", self.logits, self.logits.stride(0), self.vocab_size, self.draws, ids.ctypes.data
        )
        program.run(self.native.pool, sequences=self.count)
        return ids

    def redraw(self, logits: torch.Tensor, masks: np.ndarray) -> np.ndarray:
        self.arrays["is_guided"][:] = True
        ids, rows, draws = np.zeros(self.count, np.int32), np.arange(self.count), self.draws
        code = self.native.library.quire_redraw_slots(
            self.native.pool.address,
            logits.data_ptr(),
            logits.stride(0),
            rows.ctypes.data,
            self.count,
            self.vocab_size,
            ctypes.addressof(draws),
            masks.ctypes.data,
            masks.shape[1],
            ids.ctypes.data,
        )
        assert code == 0
        return ids

    def masks(self, rng: np.random.Generator, share: float, kept: np.ndarray) -> np.ndarray:
        """That allow a ``share`` of all tokens, and ``kept`` [n]."""
        allowed = rng.random((self.count, self.vocab_size)) < share
        allowed[np.arange(self.count), kept] = True
        allowed = np.pad(allowed, ((0, 0), (0, -self.vocab_size % 32)))
        return np.packbits(allowed, axis=1, bitorder="little").view(np.int32)

    def wishes(self, number: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Draws:
        names = ("temperature", "log_min_p", "top_k", "top_p")
        return Draws(
            **{name: self.arrays[name] for name in names},
            uniforms=number(self.arrays["seed"], self.arrays["positions"] + 1),
        )


@pytest.mark.parametrize("vocab_size", [50, 3000, 40_000])
def test_a_guided_slot_is_sure_of_what_no_mask_changes(native: Any, vocab_size: int) -> None:
    """It tries what it draws by its temperature alone, and has that wherever it is allowed."""
    slots, rng = Slots(native, vocab_size), np.random.default_rng(1)
    sampling, tried = NativeSampling(native.library, native.pool), slots.draw(is_guided=True)
    free = sampling.draw_tokens(slots.logits, by_temperature_alone(slots.wishes(uniforms), vocab_size))
    sure = tried != UNSURE
    assert (tried[sure] == free[sure]).all() and sure[slots.arrays["temperature"] == 0].all()
    assert (free != slots.logits.argmax(1).numpy()).sum() > 10
    is_cut = (slots.arrays["top_k"] < vocab_size) | (slots.arrays["top_p"] < 1) | (slots.arrays["log_min_p"] > -np.inf)
    assert sure[~is_cut].all() and 0.5 < sure[is_cut].mean() < 1, "seldom sure for nothing"
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.99, 1):
        chosen = slots.redraw(slots.logits.clone(), slots.masks(rng, share, free))
        assert (chosen[sure] == free[sure]).all()


@pytest.mark.parametrize("share", [0, 0.01, 0.7, 1])
@pytest.mark.parametrize("vocab_size", [50, 31_000])
def test_drawn_again_is_what_a_masked_row_draws(native: Any, vocab_size: int, share: float) -> None:
    """The free token, if it is kept, or by the second number; as calls one by one say, here and in torch."""
    slots, sampling = Slots(native, vocab_size), NativeSampling(native.library, native.pool)
    slots.logits[7, 3] = torch.nan
    masks = slots.masks(np.random.default_rng(2), share, slots.logits.argmin(1).numpy())
    masks[5], masks[7] = 0, -1
    free = sampling.draw_tokens(slots.logits, by_temperature_alone(slots.wishes(uniforms), vocab_size))
    expected, found = slots.logits.clone(), slots.logits.clone()
    sampling.keep_allowed(expected, np.arange(slots.count), masks)
    wishes = slots.wishes(second_uniforms)
    tokens = slots.redraw(found, masks)
    assert tokens.tolist() == sampling.draw_tokens(expected, wishes, free=free).tolist()
    assert tokens.tolist() == keep_free(sampling, expected, wishes, free).tolist()
    assert found.numpy().tobytes() == expected.numpy().tobytes()
    assert tokens[5] == tokens[7] == NO_TOKEN and (np.delete(tokens, [5, 7]) >= 0).all()
    if share == 1:
        is_kept = tokens == free
        assert 0.6 < is_kept.mean() < 1, "some are not among what is kept"
