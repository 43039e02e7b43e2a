"""From logits to tokens, for the rows of one step.

The order is vLLM's: log probabilities of the raw logits; allowed_token_ids, bad_words, min_tokens, logit_bias;
repetition, frequency and presence penalties; then for a greedy row the likeliest token, and for the others temperature,
min_p, top_k, top_p and a draw.

Laws. A row's token and log probabilities depend on that row alone, bit for bit: its logits, its sequence's parameters
and tokens, (seed, position). A row that cannot be sampled gives -1 and disturbs no other. A steady step costs a fixed
number of array operations; only rows that ask for a feature pay for it.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission, TopLogprobs
from quire.decoding.choice import draw, greedy, masses, rescale
from quire.decoding.logprobs import top_logprobs
from quire.decoding.masks import Constraints
from quire.decoding.penalties import Penalties
from quire.decoding.random import uniforms
from quire.decoding.slots import NO_LOGPROBS, SlotParameters
from quire.decoding.truncation import draw_truncated, drop_improbable


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen in one step."""

    token_ids: np.ndarray
    """[R] int32; -1 where the logits held NaN or +inf, or where the request's own rules left no token."""
    logprobs: dict[int, TopLogprobs] = field(default_factory=dict)
    """By row, for those that asked and got a token."""


class Sampler:
    """Chooses tokens for the sequences in its slots. One for each model runner, in the worker's process.

    A slot is admitted, sampled any number of times, released. Not thread-safe.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._slots = SlotParameters(max_num_seqs, vocab_size)
        self._constraints = Constraints(max_num_seqs, vocab_size, device)
        self._penalties = Penalties(max_num_seqs, vocab_size, device)

    @torch.inference_mode()
    def admit(self, admission: Admission) -> None:
        """Fill a slot. Tokens beyond the prompt are taken as generated; whatever the slot held before is dropped."""
        self.release(np.array([admission.slot]))
        has_edits = self._constraints.admit(admission)
        if admission.params.has_penalties:
            self._penalties.admit(admission)
            has_edits = True
        self._slots.put(admission, has_edits=has_edits)

    @torch.inference_mode()
    def release(self, slots: np.ndarray) -> None:
        """Drop the state of slots [n] whose sequences are gone."""
        self._constraints.release(slots)
        self._penalties.release(slots)

    def takes_likeliest(self, slots: np.ndarray) -> bool:
        """Whether all of these slots take the likeliest token of the logits as they are, and want nothing else."""
        return bool(self._slots.is_bare[slots].all())

    @torch.inference_mode()
    def sample(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> Sampled:
        """Choose the next token of each row, and count it as the sequence's own.

        ``logits`` [R, V] float32, changed in place; ``slots`` [R], each once; ``positions`` [R]: index of the token
        that is chosen, equal to the number of tokens before it.
        """
        assert logits.shape == (len(slots), self._vocab_size) and logits.dtype == torch.float32
        if self.takes_likeliest(slots):
            return Sampled(greedy(logits))
        asking = np.flatnonzero(self._slots.num_logprobs[slots] != NO_LOGPROBS)
        raw = torch.log_softmax(_take(logits, asking), dim=1) if asking.size else None
        broken = self._constraints.apply(logits, slots, positions)
        self._penalties.apply(logits, slots)
        token_ids = self._choose(logits, slots, positions)
        token_ids[broken] = -1
        self._record(slots, token_ids)
        if raw is None:
            return Sampled(token_ids)
        return Sampled(token_ids, self._report(raw, asking, slots, token_ids))

    def _choose(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Token ids [R] int32 from the processed logits, -1 where there is none to choose."""
        token_ids = np.empty(len(slots), np.int32)
        is_greedy = self._slots.is_greedy[slots]
        sure, random = np.flatnonzero(is_greedy), np.flatnonzero(~is_greedy)
        if sure.size:
            token_ids[sure] = greedy(_take(logits, sure))
        if random.size:
            token_ids[random] = self._draw(_take(logits, random), slots[random], positions[random])
        return token_ids

    def _draw(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Draw a token a row; ``logits`` [n, V] is overwritten. Returns [n], -1 where the row is not sound."""
        table, device = self._slots, logits.device
        broken = rescale(logits, torch.as_tensor(table.temperature[slots], device=device))
        log_min_p = table.log_min_p[slots]
        if (log_min_p > -np.inf).any():
            drop_improbable(logits, torch.as_tensor(log_min_p, device=device))
        mass = masses(logits)
        uniform = torch.as_tensor(uniforms(table.seed[slots], positions), device=device)

        tokens = torch.empty(len(slots), dtype=torch.int64, device=device)
        is_truncated = table.is_truncated[slots]
        whole, cut = np.flatnonzero(~is_truncated), np.flatnonzero(is_truncated)
        if whole.size:
            cumulative = _take(mass, whole).cumsum(dim=1)
            tokens[whole] = draw(cumulative, cumulative[:, -1], _take(uniform, whole))
        if cut.size:
            top_k = torch.as_tensor(table.top_k[slots[cut]], device=device)
            top_p = torch.as_tensor(table.top_p[slots[cut]], device=device)
            tokens[cut] = draw_truncated(_take(logits, cut), _take(mass, cut), top_k, top_p, _take(uniform, cut))
        return tokens.masked_fill_(broken, -1).cpu().numpy()

    def _record(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        chosen = token_ids >= 0
        if not chosen.all():
            slots, token_ids = slots[chosen], token_ids[chosen]
        self._constraints.record(slots, token_ids)
        self._penalties.record(slots, token_ids)

    def _report(
        self, raw: Tensor, asking: np.ndarray, slots: np.ndarray, token_ids: np.ndarray
    ) -> dict[int, TopLogprobs]:
        """Entries by row, from the log probabilities ``raw`` [n, V] of the rows ``asking`` [n]."""
        wanted = np.where(token_ids[asking] >= 0, self._slots.num_logprobs[slots[asking]], NO_LOGPROBS)
        entries: dict[int, TopLogprobs] = {}
        for k in np.unique(wanted[wanted != NO_LOGPROBS]).tolist():
            alike = np.flatnonzero(wanted == k)
            rows = asking[alike]
            entries.update(zip(rows.tolist(), top_logprobs(_take(raw, alike), token_ids[rows], k), strict=True))
        return entries


def _take(tensor: Tensor, rows: np.ndarray) -> Tensor:
    """Rows (ascending) of a tensor: the tensor itself if that is all of them, else a copy."""
    if len(rows) == len(tensor):
        return tensor
    return tensor[torch.as_tensor(rows, device=tensor.device)]
