"""A SchedulerOutput becomes tensors, the model runs, tokens are chosen.

Owns, by slot, what a device must know of running sequences: their tokens and their block tables. Nothing here loops
over sequences in a steady step; objects appear only when a sequence is admitted or asked for prompt log probabilities.
"""

import numpy as np
import torch

from quire.core.step import Admission, ModelOutput, PromptLogprobs, SchedulerOutput, TopLogprobs
from quire.decoding.sampler import Sampled, Sampler
from quire.engine.executor.executor import Computed
from quire.engine.worker.forward import Batch, Forward
from quire.model.kv import KVStorage

PROMPT_ROWS = 64
"""Prompt positions whose logits are held at once: [64, V] float32 is 50 MB at a vocabulary of 200 thousand."""


class ModelRunner:
    """One model on one device, with its KV storage and sampler."""

    def __init__(
        self,
        forward: Forward,
        kv: KVStorage,
        sampler: Sampler,
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
    ) -> None:
        self._forward = forward
        self.kv = kv
        self._sampler = sampler
        self._block_size = block_size
        self._tokens = np.zeros((max_num_seqs, max_model_len), np.int32)
        self._block_tables = np.zeros((max_num_seqs, -(-max_model_len // block_size)), np.int32)
        self._scored: dict[int, tuple[int, int]] = {}  # slot -> (prompt length, k) of prompts to be scored

    @torch.inference_mode()
    def launch(self, decision: SchedulerOutput) -> Computed:
        """See Executor.launch."""
        return Computed(self._execute(decision))

    def _execute(self, decision: SchedulerOutput) -> ModelOutput:
        """Apply the decision's changes, compute its tokens, sample where it says so."""
        self._apply(decision)
        slots, starts, counts = decision.slots, decision.starts, decision.counts
        rows, positions = _spread(starts, counts)
        num_blocks = -(-int((starts + counts).max()) // self._block_size)
        tables = self._block_tables[slots, :num_blocks]
        first_rows = np.cumsum(counts) - counts
        sampled_rows = (first_rows + counts - 1)[decision.samples]
        asked = np.arange(len(rows)) if self._scored else sampled_rows
        sampled_slots = slots[decision.samples]
        self._sampler.prepare(sampled_slots)
        self._forward.run(Batch(self._tokens[slots[rows], positions], positions, starts, counts, tables, asked))
        scores = self._score_prompts(decision, first_rows) if self._scored else {}
        if not len(sampled_rows):
            return ModelOutput(token_ids=np.empty(0, np.int32), prompt_logprobs=scores)
        places = sampled_rows if self._scored else np.arange(len(sampled_rows))  # among those asked for
        next_positions = (starts + counts)[decision.samples]
        if self._sampler.takes_likeliest(sampled_slots):
            sampled = Sampled(self._forward.likeliest(places))
        else:
            sampled = self._sampler.sample(self._forward.logits(places), sampled_slots, next_positions)
        # A sequence at its full length has no place for one more token, and will not need it.
        fits = next_positions < self._tokens.shape[1]
        self._tokens[sampled_slots[fits], next_positions[fits]] = sampled.token_ids[fits]
        return ModelOutput(
            token_ids=sampled.token_ids,
            forced=self._write_runs(sampled.given.forced, sampled_slots, next_positions + 1),
            concluded=sampled.given.concluded,
            failures=sampled.failures,
            logprobs=sampled.logprobs,
            prompt_logprobs=scores,
        )

    def _write_runs(self, runs: dict[int, list[int]], slots: np.ndarray, firsts: np.ndarray) -> dict[int, np.ndarray]:
        """Note the tokens that follow at once, by row, from position ``firsts`` [R] on; returns them as arrays."""
        arrays = {row: np.array(run, np.int32) for row, run in runs.items()}
        for row, run in arrays.items():
            place = self._tokens[slots[row], firsts[row] :]
            place[: len(run)] = run[: len(place)]  # what goes beyond the full length ends the sequence
        return arrays

    def _apply(self, decision: SchedulerOutput) -> None:
        if len(decision.released):
            self._sampler.release(decision.released)
            for slot in decision.released.tolist():
                self._scored.pop(slot, None)
        for admission in decision.admitted:
            self._admit(admission)
        updates = decision.block_updates
        if len(updates):
            self._block_tables[updates[:, 0], updates[:, 1]] = updates[:, 2]
        if len(decision.block_copies):
            self.kv.copy(decision.block_copies)

    def _admit(self, admission: Admission) -> None:
        self._tokens[admission.slot, : len(admission.tokens)] = admission.tokens
        self._sampler.admit(admission)
        k = admission.params.prompt_logprobs
        if k is not None and len(admission.tokens) == admission.prompt_len:
            self._scored[admission.slot] = (admission.prompt_len, k)

    def _score_prompts(self, decision: SchedulerOutput, first_rows: np.ndarray) -> dict[int, PromptLogprobs]:
        """Log probabilities of prompt tokens start + 1 .. start + count, for the sequences that asked."""
        scores: dict[int, PromptLogprobs] = {}
        for row, slot in enumerate(decision.slots.tolist()):
            if slot not in self._scored:
                continue
            prompt_len, k = self._scored[slot]
            start = int(decision.starts[row])
            end = min(start + int(decision.counts[row]), prompt_len - 1)
            pieces: list[TopLogprobs] = []
            for at in range(start, end, PROMPT_ROWS):
                stop = min(at + PROMPT_ROWS, end)
                first = int(first_rows[row]) - start
                logits = self._forward.logits(np.arange(first + at, first + stop))
                pieces += self._sampler.score(logits, self._tokens[slot, at + 1 : stop + 1], k)
            if pieces:
                scores[slot] = PromptLogprobs(start + 1, pieces)
        return scores


def _spread(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and position (int64) of each of the step's tokens."""
    if (counts == 1).all():
        return np.arange(len(starts)), starts.astype(np.int64)
    rows = np.repeat(np.arange(len(starts)), counts)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, starts[rows].astype(np.int64) + offsets
