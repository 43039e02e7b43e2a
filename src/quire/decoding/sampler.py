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
from quire.decoding.logprobs import top_logprobs
from quire.decoding.masks import Constraints
from quire.decoding.penalties import Penalties
from quire.decoding.random import uniforms
from quire.decoding.slots import NO_LOGPROBS, SlotParameters
from quire.kernels.ops.choice import greedy
from quire.kernels.ops.sampling import Draws, Sampling, TorchSampling

Entries = dict[int, TopLogprobs]
"""Log probabilities by row."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen in one step."""

    token_ids: np.ndarray
    """[R] int32; -1 where the logits held NaN or +inf, or where the request's own rules left no token."""
    logprobs: Entries = field(default_factory=dict)
    """For the rows that asked and got a token."""


class Sampler:
    """Chooses tokens for the sequences in its slots. One for each model runner, in the worker's process.

    A slot is admitted, sampled any number of times, released. Not thread-safe.
    """

    def __init__(
        self, max_num_seqs: int, vocab_size: int, device: torch.device, sampling: Sampling | None = None
    ) -> None:
        """``sampling``: what chooses and scores tokens; torch where it is not given."""
        self._vocab_size = vocab_size
        self._sampling = sampling or TorchSampling()
        self._slots = SlotParameters(max_num_seqs, vocab_size)
        self._constraints = Constraints(max_num_seqs, vocab_size, device)
        self._penalties = Penalties(max_num_seqs, vocab_size, device)

    @torch.inference_mode()
    def admit(self, admission: Admission) -> None:
        """Fill a slot. Tokens beyond the prompt are taken as generated; whatever the slot held before is dropped."""
        self.release(np.array([admission.slot]))
        is_edited = self._constraints.admit(admission)
        if admission.params.has_penalties:
            self._penalties.admit(admission)
            is_edited = True
        self._slots.put(admission, is_edited=is_edited)

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
        if not self._slots.is_edited[slots].any():
            token_ids = self._choose(logits, slots, positions)
            return Sampled(token_ids, self._report(logits, asking, slots, token_ids))
        raw = logits[torch.as_tensor(asking, device=logits.device)]
        broken = self._constraints.apply(logits, slots, positions)
        self._penalties.apply(logits, slots)
        token_ids = self._choose(logits, slots, positions)
        token_ids[broken] = -1
        self._record(slots, token_ids)
        return Sampled(token_ids, self._report(raw, asking, slots, token_ids))

    @torch.inference_mode()
    def score(self, logits: Tensor, targets: np.ndarray, k: int) -> list[TopLogprobs]:
        """Score tokens ``targets`` [n] of a prompt by ``logits`` [n, V] float32, which stay; k as in top_logprobs."""
        return top_logprobs(self._sampling, logits, np.arange(len(targets)), targets, k)

    def _choose(self, logits: Tensor, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Token ids [R] int32 from the processed logits, -1 where there is none to choose."""
        table = self._slots
        draws = Draws(
            temperature=table.temperature[slots],
            log_min_p=table.log_min_p[slots],
            top_k=table.top_k[slots],
            top_p=table.top_p[slots],
            uniforms=uniforms(table.seed[slots], positions),
        )
        return self._sampling.draw_tokens(logits, draws)

    def _record(self, slots: np.ndarray, token_ids: np.ndarray) -> None:
        chosen = token_ids >= 0
        if not chosen.all():
            slots, token_ids = slots[chosen], token_ids[chosen]
        self._constraints.record(slots, token_ids)
        self._penalties.record(slots, token_ids)

    def _report(self, raw: Tensor, asking: np.ndarray, slots: np.ndarray, token_ids: np.ndarray) -> Entries:
        """Entries of the rows ``asking`` [n], from their logits: ``raw`` [n, V], or all rows' [R, V]."""
        if not asking.size:
            return {}
        wanted = np.where(token_ids[asking] >= 0, self._slots.num_logprobs[slots[asking]], NO_LOGPROBS)
        places = asking if len(raw) == len(slots) else np.arange(len(asking))
        entries: Entries = {}
        for k in np.unique(wanted[wanted != NO_LOGPROBS]).tolist():
            alike = np.flatnonzero(wanted == k)
            rows = asking[alike]
            found = top_logprobs(self._sampling, raw, places[alike], token_ids[rows], k)
            entries.update(zip(rows.tolist(), found, strict=True))
        return entries
