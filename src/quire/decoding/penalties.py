"""Repetition, frequency and presence penalties, and the counts they need.

Owns, for each slot that asked for a penalty, how often every token was generated and which tokens the prompt holds;
or, with a window, how often every token is among the last ones, whoever wrote them. Other slots cost nothing. Law: the
counts are a function of the sequence's tokens, so a resumed sequence has those it would have had.

Sources: repetition, Keskar et al., "CTRL" (2019), over prompt and output; frequency and presence, the OpenAI API, over
the output alone. Windows are llama.cpp's.
"""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission


class Penalties:
    """The penalties of all slots. One for each sampler, in the worker's process.

    Counts lie in rows of shared tensors, taken at admission and given back at release; the tensors double when they
    are full, so that memory follows the most penalised sequences that ever ran at once.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._row_of_slot = np.full(max_num_seqs, -1, np.int64)
        self._strengths = np.zeros((max_num_seqs, 3), np.float32)
        """By slot: repetition, frequency, presence."""
        self._windows: dict[int, deque[int]] = {}
        """By slot that has one: the tokens in it, -1 for those beyond the vocabulary."""
        self._free_rows: list[int] = []
        self._counts = torch.zeros((0, vocab_size), dtype=torch.int32, device=device)
        """[P, V]: times each token was generated, or is in the window."""
        self._in_prompt = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        """[P, V]: nothing where there is a window."""

    def admit(self, admission: Admission) -> None:
        """Count the tokens there are. Only for sequences with penalties; the slot holds none yet."""
        slot, params = admission.slot, admission.params
        row = self._take_row()
        self._row_of_slot[slot] = row
        self._strengths[slot] = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        # A token beyond the vocabulary has no logit that could be penalised.
        within = np.where(admission.tokens < self._vocab_size, admission.tokens, -1)
        if params.penalty_window is not None:
            prompt, output = within[:0], within[-params.penalty_window :]
            self._windows[slot] = deque(output.tolist(), maxlen=params.penalty_window)
        else:
            prompt, output = within[: admission.prompt_len], within[admission.prompt_len :]
        counts = np.bincount(output[output >= 0], minlength=self._vocab_size).astype(np.int32)
        in_prompt = np.bincount(prompt[prompt >= 0], minlength=self._vocab_size) > 0
        self._counts[row] = torch.from_numpy(counts)
        self._in_prompt[row] = torch.from_numpy(in_prompt)

    def release(self, slots: np.ndarray) -> None:
        """Take back what these slots hold; slots without penalties are passed over."""
        rows = self._row_of_slot[slots]
        self._free_rows.extend(rows[rows >= 0].tolist())
        self._row_of_slot[slots] = -1
        for slot in self._windows.keys() & slots.tolist():
            del self._windows[slot]

    def apply(self, logits: Tensor, slots: np.ndarray) -> None:
        """Change the rows of ``logits`` [R, V] whose slots have penalties, in place."""
        if self._is_idle:
            return
        rows = np.flatnonzero(self._row_of_slot[slots] >= 0)
        if not rows.size:
            return
        places = torch.as_tensor(self._row_of_slot[slots[rows]], device=logits.device)
        strengths = torch.as_tensor(self._strengths[slots[rows]], device=logits.device)
        counts, in_prompt = self._counts[places], self._in_prompt[places]
        if rows.size == len(slots):
            penalise(logits, counts, in_prompt, strengths)
            return
        index = torch.as_tensor(rows, device=logits.device)
        penalised = logits[index]
        penalise(penalised, counts, in_prompt, strengths)
        logits[index] = penalised

    def record(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        """Count the tokens just chosen: ``token_ids`` [R], one for each of ``slots`` [R]."""
        if self._is_idle:
            return
        rows = self._row_of_slot[slots]
        counted = rows >= 0
        if counted.any():
            device = self._counts.device
            places = torch.as_tensor(rows[counted], device=device)
            tokens = torch.as_tensor(token_ids[counted].astype(np.int64), device=device)
            self._counts[places, tokens] += 1  # no slot comes twice in a step, so no place does
            if self._windows:
                self._move_windows(slots, token_ids)

    def _move_windows(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        """Take in one token for each slot that has a window, and discount the one that falls out of it."""
        for slot, token in zip(slots.tolist(), token_ids.tolist(), strict=True):
            if (window := self._windows.get(slot)) is None:
                continue
            if len(window) == window.maxlen and window[0] >= 0:
                self._counts[int(self._row_of_slot[slot]), window[0]] -= 1
            window.append(token)

    def place(self, slot: int) -> int:
        """The row of a slot's counts; -1 without penalties."""
        return int(self._row_of_slot[slot])

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """How often each token was generated [P, V] int32, and which the prompts hold [P, V] bool, by place.

        Admissions may replace them by larger ones.
        """
        return self._counts, self._in_prompt

    @property
    def _is_idle(self) -> bool:
        return len(self._free_rows) == len(self._counts)

    def _take_row(self) -> int:
        if not self._free_rows:
            num_rows = len(self._counts)
            added = min(max(num_rows, 1), len(self._row_of_slot) - num_rows)
            self._counts = torch.cat((self._counts, self._counts.new_zeros((added, self._vocab_size))))
            self._in_prompt = torch.cat((self._in_prompt, self._in_prompt.new_zeros((added, self._vocab_size))))
            self._free_rows.extend(range(num_rows, num_rows + added))
        return self._free_rows.pop()


def penalise(logits: Tensor, counts: Tensor, in_prompt: Tensor, strengths: Tensor) -> None:
    """Lower, in place, the logits of tokens seen before.

    ``logits`` [n, V] float32; ``counts`` [n, V] int32 of the output; ``in_prompt`` [n, V] bool; ``strengths`` [n, 3]
    float32: repetition, frequency, presence. Repetition divides a positive logit and multiplies a negative one.
    """
    repetition, frequency, presence = strengths[:, :, None].unbind(dim=1)
    generated = counts > 0
    if (repetition != 1).any():
        lowered = torch.where(logits > 0, logits / repetition, logits * repetition)
        torch.where(generated | in_prompt, lowered, logits, out=logits)
    # Written as two roundings each: a fused multiply-add would depend on where a vector loop ends.
    logits.sub_(counts * frequency)
    logits.sub_(generated * presence)
