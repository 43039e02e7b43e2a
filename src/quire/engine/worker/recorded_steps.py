"""Steps recorded once for each size, and replayed by one call: what a device with a queue is given.

A recorded step reads what the host says of it from fixed places, and finds everything else on the device: the tokens
chosen by the step before, the block tables, where keys and values go.

Law: a row's results do not depend on the rows that fill up a recorded step; those belong to nobody, and write to a
block of their own.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quire.engine.worker.recorder import Recorder, Replay
from quire.engine.worker.sizes import Sizes
from quire.engine.worker.slot_tokens import DeviceTokens, Places, send
from quire.model.attention.backend import Chunks, DeviceAttention
from quire.model.context import ForwardContext
from quire.model.families.decoder import CausalLM
from quire.model.kv import KVStorage

MOST_MIXED_TOKENS = 1024
"""8 billion weights keep an H200 busy for 20 ms with so many, several times as long as the host needs to launch them
one by one; and what fills up a step is computed too."""
_NOBODY = np.empty(0, np.int64)
_ALIGNED = 4
"""Of 32-bit numbers: kernels are compiled for addresses that are multiples of 16."""


def decode_sizes(most: int) -> list[int]:
    """Numbers of sequences for which decode steps are recorded: powers of two to 16, by 16 to 256, then by 64."""
    sizes = [1, 2, 4, 8, *range(16, 257, 16), *range(320, most + 1, 64)]
    return [*(size for size in sizes if size < most), most]


def mixed_sizes(most: int) -> list[int]:
    """Numbers of tokens for which mixed steps are recorded: coarse where weights bind, finer where products do."""
    sizes = [16, 32, 64, 96, 128, *range(192, 513, 64), *range(640, 1025, 128)]
    most = min(most, MOST_MIXED_TOKENS)
    return [*(size for size in sizes if size < most), most]


@dataclass(frozen=True)
class Parts:
    """What a step is computed with."""

    model: CausalLM
    kv: KVStorage
    attention: DeviceAttention
    tokens: DeviceTokens
    sizes: Sizes

    def run(
        self,
        slots: Tensor,
        positions: Tensor,
        *,
        seq_slots: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        chunks: Chunks | None = None,
    ) -> Tensor:
        """Hidden states [T, E] of the tokens at ``positions`` [T] of ``slots`` [T], both int64; all on the device.

        Of sequence i, in ``seq_slots`` [S], query_starts[i] : query_starts[i + 1].
        """
        size = self.sizes.block_size
        blocks = self.tokens.block_tables[slots, positions // size].long()
        plan = self.attention.plan_on_device(
            slot_mapping=blocks * size + positions % size,
            block_tables=self.tokens.block_tables.index_select(0, seq_slots),
            query_starts=query_starts,
            context_lens=context_lens,
            max_query=1,
            max_context=self.sizes.max_model_len,
            chunks=chunks,
        )
        return self.model(self.tokens.read(slots, positions).long(), ForwardContext(positions, plan, plan, self.kv))


class Inputs(NamedTuple):
    """What a decode step for ``size`` sequences is told."""

    where: Tensor
    """[2, size or one more] int64: slots, and positions."""
    changes: Tensor
    """[2, size or one more] int64: places in block tables, and blocks. A sequence needs one block more at most."""

    @classmethod
    def of(cls, size: int, device: torch.device) -> "Inputs":
        width = size + size % (_ALIGNED // 2)
        return cls(*torch.zeros((2, 2, width), dtype=torch.int64, device=device))


class Cohort(NamedTuple):
    """Sequences that decode together, step after step, and what a step of them is."""

    slots: np.ndarray
    """[S], as the step named them that gathered them."""
    size: int
    """Of its steps, at least S."""
    inputs: Inputs
    step: Replay
    likeliest: Replay
    rows: np.ndarray
    """[S]: theirs among the rows of a step."""
    places: Places
    """Where their next tokens will be."""
    hidden: Tensor
    """[S, E], of their last tokens."""
    chosen: Tensor
    """[S] int32, their likeliest next ones."""


class DecodeSteps:
    """Steps of one token of each sequence, by how many there are; and what is likeliest behind each.

    A step leaves its inputs as the next one wants them, if that is for the same sequences: then it is told of their new
    blocks alone. The same are those in the same array, which nobody writes.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sizes = decode_sizes(parts.sizes.max_num_seqs)
        most, device = self._sizes[-1], parts.tokens.device
        self._inputs = {size: Inputs.of(size, device) for size in self._sizes}
        self._next = torch.zeros(most, dtype=torch.int64, device=device)
        self._query_starts = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._steps: dict[int, Replay] = {}
        self._likeliest: dict[int, Replay] = {}
        self._cohort: Cohort | None = None
        self._expected = b""
        """The positions that the cohort's inputs say already."""

    def record(self, recorder: Recorder) -> None:
        """The largest first: the others find room in its memory."""
        self._steps, self._likeliest, self._cohort = {}, {}, None
        for size in reversed(self._sizes):
            self._place(self._inputs[size], _NOBODY, _NOBODY)
            self._change(self._inputs[size], _NOBODY, _NOBODY)
            self._steps[size] = recorder.record(partial(self._run, size))
            self._likeliest[size] = recorder.record(partial(self._choose, size, self._steps[size].result))

    def replay(self, slots: np.ndarray, positions: np.ndarray) -> Cohort:
        """Compute the tokens at ``positions`` [S] of ``slots`` [S], whose cohort is returned."""
        cohort, tokens = self._cohort, self._parts.tokens
        is_expected = cohort is not None and slots is cohort.slots and positions.tobytes() == self._expected
        if cohort is None or slots is not cohort.slots:
            cohort = self._cohort = self._gather(slots)
        if tokens.num_due > cohort.size:
            tokens.settle()
            is_expected = False
        if not is_expected:
            self._place(cohort.inputs, slots, positions)
        if not is_expected or tokens.num_due:
            self._change(cohort.inputs, *tokens.take_due())
        self._expected = (positions + 1).tobytes()
        cohort.step.run()
        return cohort

    def forget(self) -> None:
        """Others have computed since: what the inputs say may not be so any more."""
        self._cohort = None

    def likeliest(self) -> Tensor:
        """Behind a replay: the likeliest tokens [S] int32, written to their places too."""
        assert self._cohort is not None
        self._cohort.likeliest.run()
        return self._cohort.chosen

    def _gather(self, slots: np.ndarray) -> Cohort:
        count = slots.size
        size = self._sizes[bisect_left(self._sizes, count)]
        inputs, step, likeliest = self._inputs[size], self._steps[size], self._likeliest[size]
        places = Places(inputs.where[0, :count], self._next[:count])
        hidden, chosen = step.result[:count], likeliest.result[:count]
        return Cohort(slots, size, inputs, step, likeliest, np.arange(count), places, hidden, chosen)

    def _place(self, inputs: Inputs, slots: np.ndarray, positions: np.ndarray) -> None:
        send(_filled_up(inputs.where.shape[1], slots, positions, (self._parts.tokens.nowhere, 0)), inputs.where)

    def _change(self, inputs: Inputs, places: np.ndarray, blocks: np.ndarray) -> None:
        nothing = self._parts.tokens.nothing_due
        send(_filled_up(inputs.changes.shape[1], places, blocks, nothing), inputs.changes)

    def _run(self, size: int) -> Tensor:
        slots, positions = self._inputs[size].where[:, :size]
        places, blocks = self._inputs[size].changes[:, :size]
        after = self._next[:size]
        torch.add(positions, 1, out=after)
        self._parts.tokens.change(places, blocks)
        hidden = self._parts.run(
            slots,
            positions,
            seq_slots=slots,
            query_starts=self._query_starts[: size + 1],
            context_lens=after.int(),
        )
        positions.copy_(after * (slots != self._parts.tokens.nowhere))
        return hidden

    def _choose(self, size: int, hidden: Tensor) -> Tensor:
        ids = self._parts.model.likeliest(hidden)
        self._parts.tokens.put(Places(self._inputs[size].where[0, :size], self._next[:size]), ids)
        return ids


def _filled_up(size: int, one: np.ndarray, other: np.ndarray, nobodys: tuple[int, int]) -> np.ndarray:
    """[2, size] int64: ``one`` [n] and ``other`` [n], and what is nobody's behind them."""
    filled, count = np.empty((2, size), np.int64), one.size
    filled[0, :count], filled[1, :count] = one, other
    filled[0, count:], filled[1, count:] = nobodys
    return filled


class Layout(NamedTuple):
    """Where in one piece of int32 the host says what of a mixed step of T tokens and at most S sequences.

    What fills it up is nobody's, and computes nothing.
    """

    slots: slice
    """[T]: of each token."""
    positions: slice
    """[T]."""
    seq_slots: slice
    """[S]."""
    context_lens: slice
    """[S]."""
    query_starts: slice
    """[S + 1]."""

    @classmethod
    def of(cls, num_tokens: int, num_seqs: int) -> "Layout":
        sizes = (num_tokens, num_tokens, num_seqs, num_seqs, num_seqs + 1)
        begins = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
        return cls(*(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=False)))

    @property
    def length(self) -> int:
        return int(self.query_starts.stop)


class MixedSteps:
    """Steps in which some sequences compute more than one token, by how many tokens there are."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        num_seqs, device = parts.sizes.max_num_seqs, parts.tokens.device
        self._sizes = mixed_sizes(parts.sizes.max_num_tokens)
        self._layouts = {size: Layout.of(size, num_seqs) for size in self._sizes}
        self._said = {
            size: torch.zeros(layout.length, dtype=torch.int32, device=device) for size, layout in self._layouts.items()
        }
        self._chunks = {size: parts.attention.chunks(size, num_seqs) for size in self._sizes}
        self._steps: dict[int, Replay] = {}

    @property
    def most(self) -> int:
        """Tokens of a step."""
        return self._sizes[-1]

    def record(self, recorder: Recorder) -> None:
        """The largest first: the others find room in its memory."""
        self._steps = {}
        nobody = np.zeros(0, np.int32)
        for size in reversed(self._sizes):
            self._say(size, nobody, nobody, nobody)
            self._steps[size] = recorder.record(partial(self._run, size))

    def replay(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Tensor:
        """Hidden states [T, E] of tokens starts[i] : starts[i] + counts[i] of each of ``slots`` [S]."""
        num_tokens = int(counts.sum())
        size = self._sizes[bisect_left(self._sizes, num_tokens)]
        self._parts.tokens.settle()
        self._say(size, slots, starts, counts)
        step = self._steps[size]
        step.run()
        return step.result[:num_tokens]

    def _say(self, size: int, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        num_seqs, num_tokens, at = len(slots), int(counts.sum()), self._layouts[size]
        said = np.zeros(at.length, np.int32)
        said[at.slots] = said[at.seq_slots] = self._parts.tokens.nowhere
        said[at.query_starts] = num_tokens
        ends, lens = np.cumsum(counts), starts + counts
        rows = np.repeat(np.arange(num_seqs), counts)
        said[at.slots][:num_tokens] = slots[rows]
        said[at.positions][:num_tokens] = np.arange(num_tokens) + (lens - ends)[rows]
        said[at.seq_slots][:num_seqs] = slots
        said[at.context_lens][:num_seqs] = lens
        said[at.query_starts][0], said[at.query_starts][1 : num_seqs + 1] = 0, ends
        send(said, self._said[size])
        self._chunks[size].tell(counts, lens)

    def _run(self, size: int) -> Tensor:
        said, at = self._said[size], self._layouts[size]
        return self._parts.run(
            said[at.slots].long(),
            said[at.positions].long(),
            seq_slots=said[at.seq_slots].long(),
            query_starts=said[at.query_starts],
            context_lens=said[at.context_lens],
            chunks=self._chunks[size],
        )
