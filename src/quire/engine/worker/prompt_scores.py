"""Log probabilities of prompt tokens, for the sequences that asked: chunk after chunk, as prompts are computed."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from quire.core.sampling_params import SamplingParams
from quire.core.step import Admission, PromptLogprobs, SchedulerOutput, TopLogprobs
from quire.decoding.sampler import Sampler

PROMPT_ROWS = 64
"""Prompt positions whose logits are held at once: [64, V] float32 is 50 MB at a vocabulary of 200 thousand."""


class PromptScores:
    """Who asked, by slot. Empty costs nothing."""

    def __init__(self) -> None:
        self._asked: dict[int, tuple[np.ndarray, SamplingParams]] = {}  # prompt, and what is asked of it

    def __bool__(self) -> bool:
        return bool(self._asked)

    def admit(self, admission: Admission) -> None:
        """Note a sequence, unless it has scored its prompt before a preemption."""
        if admission.params.prompt_logprobs is not None and len(admission.tokens) == admission.prompt_len:
            self._asked[admission.slot] = admission.tokens, admission.params

    def release(self, slots: np.ndarray) -> None:
        for slot in slots.tolist() if self._asked else ():
            self._asked.pop(slot, None)

    def of(
        self, decision: SchedulerOutput, logits: Callable[[np.ndarray], Tensor], sampler: Sampler
    ) -> dict[int, PromptLogprobs]:
        """By slot: scores of prompt tokens start + 1 .. start + count. ``logits`` gives those of rows of the step."""
        scores: dict[int, PromptLogprobs] = {}
        first_rows = np.cumsum(decision.counts) - decision.counts
        for row, slot in enumerate(decision.slots.tolist()):
            if slot not in self._asked:
                continue
            prompt, params = self._asked[slot]
            assert params.prompt_logprobs is not None
            start = int(decision.starts[row])
            end = min(start + int(decision.counts[row]), len(prompt) - 1)
            pieces: list[TopLogprobs] = []
            for at in range(start, end, PROMPT_ROWS):
                stop = min(at + PROMPT_ROWS, end)
                first = int(first_rows[row]) - start
                given = [(token, *params.logprob_token_ids) for token in prompt[at + 1 : stop + 1].tolist()]
                rows = logits(np.arange(first + at, first + stop))
                pieces += sampler.score(rows, np.array(given, np.int32), params.prompt_logprobs)
            if pieces:
                scores[slot] = PromptLogprobs(start + 1, pieces)
        return scores
