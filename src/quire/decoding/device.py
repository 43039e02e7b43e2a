"""From logits to tokens without leaving the device: for sequences whose rules need nothing of the host.

Beside the Sampler, which serves everybody. A sequence is taken here if it wants no more than temperature, top_k, top_p,
min_p, penalties without a window, and the likeliest tokens' log probabilities; its tokens are those that the Sampler
would choose. Owns the parameters of its slots, on the device and as the host's copy, and the counts of its penalties.

Law: ``sample`` launches work and reads nothing back; what it launches depends on ``flags``, which the host knows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quire.core.step import Admission
from quire.decoding.penalties import Penalties
from quire.decoding.slots import Choice, SlotParameters
from quire.kernels.ops.device_sampling import DeviceSampling, DeviceScores, Real, SlotTables, Whole


@dataclass(frozen=True, slots=True)
class Flags:
    """What the rows of a step want together: which work is launched. Equal flags launch equal work."""

    has_random: bool
    """False: every row takes the likeliest token."""
    has_cut: bool
    """Some row has top_k or top_p."""
    has_penalties: bool


class DeviceSampler:
    """Chooses tokens on the device for the sequences in its slots. One for each model runner. Not thread-safe."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device, sampling: DeviceSampling) -> None:
        self._vocab_size = vocab_size
        self._sampling = sampling
        self._slots = SlotParameters(max_num_seqs, vocab_size)
        self._penalties = Penalties(max_num_seqs, vocab_size, device)
        self._is_held = np.zeros(max_num_seqs, bool)
        self._changed: set[int] = set()
        self._reals = np.zeros((max_num_seqs, len(Real)), np.float64)
        self._wholes = np.zeros((max_num_seqs, len(Whole)), np.int64)
        self._wholes[:, Whole.PLACE] = -1
        self._tables = SlotTables(torch.tensor(self._reals, device=device), torch.tensor(self._wholes, device=device))

    def admit(self, admission: Admission) -> bool:
        """Fill a slot, or say that the sequence needs the Sampler: False. Whatever the slot held is dropped."""
        slot, params = admission.slot, admission.params
        self.release(np.array([slot]))
        has_rules = params.allowed_token_ids is not None or bool(params.logit_bias) or bool(admission.bad_word_ids)
        is_guided = admission.grammar is not None or admission.reasoning is not None
        if has_rules or is_guided or params.min_tokens or params.logprob_token_ids:
            return False
        if params.has_penalties and params.penalty_window is not None:
            return False
        place = -1
        if params.has_penalties:
            self._penalties.admit(admission)
            place = self._penalties.place(slot)
        self._slots.put(admission, is_processed=params.has_penalties)
        table, real, whole = self._slots, self._reals[slot], self._wholes[slot]
        real[Real.TEMPERATURE], real[Real.LOG_MIN_P] = table.temperature[slot], table.log_min_p[slot]
        real[Real.TOP_P] = table.top_p[slot]
        real[Real.REPETITION] = np.float32(params.repetition_penalty)
        real[Real.FREQUENCY] = np.float32(params.frequency_penalty)
        real[Real.PRESENCE] = np.float32(params.presence_penalty)
        whole[Whole.TOP_K], whole[Whole.PLACE] = table.top_k[slot], place
        whole[Whole.SEED] = table.seed[slot : slot + 1].view(np.int64)[0]
        self._is_held[slot] = True
        self._changed.add(slot)
        return True

    def release(self, slots: np.ndarray) -> None:
        """Drop what these slots [n] hold; those that hold nothing are passed over."""
        held = slots[self._is_held[slots]]
        self._penalties.release(held)
        self._is_held[held] = False
        self._reals[held], self._wholes[held] = 0.0, 0
        self._wholes[held, Whole.PLACE] = -1
        self._changed.update(held.tolist())

    def holds(self, slots: np.ndarray) -> np.ndarray:
        """[n] bool: which of these slots are sampled here."""
        held: np.ndarray = self._is_held[slots]
        return held

    def takes_likeliest(self, slots: np.ndarray) -> bool:
        """Whether all of these slots take the likeliest token of the logits as they are, and want nothing else."""
        return self._slots.choice_of(slots) is Choice.LIKELIEST

    def num_logprobs(self, slots: np.ndarray) -> np.ndarray:
        """[n]: how many log probabilities beside the chosen token's, or NO_LOGPROBS (slots.py)."""
        wanted: np.ndarray = self._slots.num_logprobs[slots]
        return wanted

    def flags(self, slots: np.ndarray) -> Flags:
        """Of a step that samples these slots [n]."""
        reals, wholes = self._reals[slots], self._wholes[slots]
        is_random = reals[:, Real.TEMPERATURE] > 0
        is_cut = (wholes[:, Whole.TOP_K] < self._vocab_size) | (reals[:, Real.TOP_P] < 1)
        has_penalties = bool((wholes[:, Whole.PLACE] >= 0).any())
        return Flags(bool(is_random.any()), bool((is_random & is_cut).any()), has_penalties)

    def flush(self) -> None:
        """Bring what changed to the device: before a step after admissions or releases, and not within a graph."""
        if not self._changed:
            return
        slots = np.array(sorted(self._changed), np.int64)
        self._changed.clear()
        device = self._tables.reals.device
        where = torch.from_numpy(slots).to(device, non_blocking=True)
        for table, rows in ((self._tables.reals, self._reals[slots]), (self._tables.wholes, self._wholes[slots])):
            table.index_copy_(0, where, torch.from_numpy(rows).to(device, non_blocking=True))

    def sample(self, logits: Tensor, slots: Tensor, positions: Tensor, flags: Flags) -> Tensor:
        """Choose the next token of each row, and count it: [R] int32 on the device, -1 where a row is not sound.

        ``logits`` [R, V] float32, changed in place where ``flags`` has penalties; ``slots`` and ``positions`` [R] int64
        on the device, as Sampler.sample has them. A slot that holds nothing takes the likeliest token.
        """
        counts, in_prompt = self._penalties.tables
        if flags.has_penalties:
            self._sampling.penalise(logits, slots, self._tables, counts, in_prompt)
        draws = self._sampling.wishes(
            self._tables, slots, positions, has_random=flags.has_random, has_cut=flags.has_cut
        )
        tokens = self._sampling.draw(logits, draws)
        if flags.has_penalties:
            self._sampling.count(tokens, slots, self._tables, counts)
        return tokens

    def score(self, logits: Tensor, rows: Tensor, tokens: Tensor, k: int) -> DeviceScores:
        """Log probabilities of ``tokens`` [n] in ``rows`` [n] of raw ``logits`` [R, V], and of the k likeliest."""
        return self._sampling.score(logits, rows, tokens, k)
