"""A SchedulerOutput becomes tensors, the model runs, tokens are chosen.

Owns, by slot, what a device must know of running sequences: their tokens and their block tables. Nothing here loops
over sequences in a steady step; objects appear only when a sequence is admitted or asked for prompt log probabilities.

A steady step whose sequences choose in one plain way goes a short way, which touches little: on a CPU, what it touches
is out of the caches, since a step reads all weights; and a device must not wait for the host.

On a device that computes beside this process, a step whose tokens are all chosen there is over only when its ticket is
asked; the next may be launched before. A step in which someone needs the host for that, as for a grammar, is over when
its launch returns.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission, ModelOutput, PromptLogprobs, SchedulerOutput
from quire.decoding.sampler import Sampled
from quire.decoding.slots import Choice
from quire.engine.executor.executor import Computed, Ticket
from quire.engine.worker.chooser import Chooser, OnDevice, Reading
from quire.engine.worker.forward import Batch, Forward
from quire.engine.worker.prompt_scores import PromptScores
from quire.engine.worker.slot_tokens import Places, SlotTokens
from quire.model.kv import KVStorage


class ModelRunner:
    """One model on one device, with its KV storage and sampler."""

    def __init__(self, forward: Forward, kv: KVStorage, chooser: Chooser, tokens: SlotTokens, block_size: int) -> None:
        """``tokens`` and ``chooser`` of a device, both, or of the host."""
        self._forward = forward
        self.kv = kv
        self._chooser = chooser
        self._block_size = block_size
        self._tokens = tokens
        self._scores = PromptScores()

    def launch(self, decision: SchedulerOutput) -> Ticket:
        """Apply the decision's changes, compute its tokens, choose where it says so. See Executor.launch."""
        if decision.changes_something:
            self._apply(decision)
        if decision.is_decode and not self._scores:
            slots = decision.slots
            choice = self._chooser.choice_of(slots)
            ids = self._forward.advance(slots, decision.starts, choice)
            if isinstance(ids, Tensor):
                return _Later(Reading.begin(OnDevice(ids, [])))
            if ids is not None and choice is Choice.LED:
                positions = decision.sampled_positions
                chosen = self._chooser.lead(ids, slots, positions)
                return self._note(chosen, Places(slots, positions), slots, positions, {})
            if ids is not None:
                return Computed(ModelOutput(token_ids=ids))
        return self._launch(decision)

    @torch.inference_mode()
    def _launch(self, decision: SchedulerOutput) -> Ticket:
        """What is no short way."""
        slots = decision.sampled_slots
        self._chooser.prepare(slots)
        rows, places = self._compute(decision)
        scores = self._scores.of(decision, self._forward.logits, self._chooser.host) if self._scores else {}
        if not len(slots):
            return Computed(ModelOutput(token_ids=np.empty(0, np.int32), prompt_logprobs=scores))
        positions = decision.sampled_positions
        chosen = self._chooser.choose(self._forward, rows, slots, positions, places)
        if isinstance(chosen, OnDevice):
            self._tokens.put(places, chosen.ids)
            reading = Reading.begin(chosen)
            return Computed(_output(reading.result(), scores)) if scores else _Later(reading)
        return self._note(chosen, places, slots, positions, scores)

    def _note(
        self,
        chosen: Sampled,
        places: Places,
        slots: np.ndarray,
        positions: np.ndarray,
        scores: dict[int, PromptLogprobs],
    ) -> Computed:
        """Put what was chosen for ``slots`` [R] at ``positions`` [R] where the next step finds it, ``places``."""
        self._tokens.put(places, chosen.token_ids)
        return Computed(_output(chosen, scores, self._write_runs(chosen.given.forced, slots, positions + 1)))

    def _compute(self, decision: SchedulerOutput) -> tuple[np.ndarray, Places]:
        """Run the model. For the R that sample: their rows among those asked for, and where their tokens will be."""
        if not self._scores and (found := self._forward.replay(decision)) is not None:
            return found
        slots, starts, counts = decision.slots, decision.starts, decision.counts
        rows, positions = _spread(starts, counts)
        num_blocks = -(-int((starts + counts).max()) // self._block_size)
        tables = self._tokens.tables(slots, num_blocks)
        sampled = (np.cumsum(counts) - 1)[decision.samples]
        asked = np.arange(len(rows)) if self._scores else sampled
        tokens = self._tokens.at(slots[rows], positions)
        self._forward.run(Batch(tokens, positions, starts, counts, tables, asked))
        places = self._tokens.locate(decision.sampled_slots, decision.sampled_positions)
        return sampled if self._scores else np.arange(len(sampled)), places

    def restore_kv(self) -> None:
        """Have the KV storage again after its ``release``, all zeros. Raises torch.OutOfMemoryError."""
        self.kv.restore()
        self._forward.kv_has_moved()

    def _write_runs(self, runs: dict[int, list[int]], slots: np.ndarray, firsts: np.ndarray) -> dict[int, np.ndarray]:
        """Note the tokens that follow at once, by row, from position ``firsts`` [R] on; returns them as arrays."""
        arrays = {row: np.array(run, np.int32) for row, run in runs.items()}
        for row, run in arrays.items():  # what goes beyond the full length ends the sequence
            places = self._tokens.locate(np.full(len(run), slots[row]), firsts[row] + np.arange(len(run)))
            self._tokens.put(places, run)
        return arrays

    @torch.inference_mode()
    def _apply(self, decision: SchedulerOutput) -> None:
        if len(decision.released):
            self._chooser.release(decision.released)
            self._scores.release(decision.released)
        for admission in decision.admitted:
            self._admit(admission)
        updates = decision.block_updates
        if len(updates):
            self._tokens.set_blocks(*updates.T)
        if len(decision.block_copies):
            self.kv.copy(decision.block_copies)

    def _admit(self, admission: Admission) -> None:
        self._tokens.admit(admission.slot, admission.tokens)
        self._chooser.admit(admission)
        self._scores.admit(admission)


class _Later(NamedTuple):
    """A step on a device whose tokens are on their way here."""

    reading: Reading

    @property
    def is_done(self) -> bool:
        return False

    def result(self) -> ModelOutput:
        """See Ticket.result."""
        return _output(self.reading.result(), {})


def _output(
    sampled: Sampled, scores: dict[int, PromptLogprobs], forced: dict[int, np.ndarray] | None = None
) -> ModelOutput:
    return ModelOutput(
        token_ids=sampled.token_ids,
        forced=forced or {},
        concluded=sampled.given.concluded,
        failures=sampled.failures,
        logprobs=sampled.logprobs,
        prompt_logprobs=scores,
    )


def _spread(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and position (int64) of each of the step's tokens."""
    if (counts == 1).all():
        return np.arange(len(starts)), starts
    rows = np.repeat(np.arange(len(starts)), counts)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, starts[rows] + offsets
