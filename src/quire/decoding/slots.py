"""How each slot wants its tokens chosen, as arrays by slot.

Owned by the sampler, in the worker's process. A step reads the rows it needs with one fancy index for each array; no
object is touched for it. Law: an entry is whole from ``put`` until the next ``put`` of the same slot, and everything
here is fixed for a sequence's life. The arrays stay where they are: native programs have their addresses.
"""

import math
from enum import IntEnum

import numpy as np

from quire.core.step import Admission

NO_LOGPROBS = -2
"""Since -1 asks for the whole vocabulary and 0 for the chosen token alone."""


class Choice(IntEnum):
    """How sequences choose. Who chooses in one way can in each that comes after it, too."""

    LIKELIEST = 0
    """The likeliest token of the logits as they are."""
    DRAWN = 1
    """From the logits as they are, by the parameters of their slots."""
    LED = 2
    """From the logits as a guide leaves them."""
    SAMPLED = 3
    """By all that the sampler can do, and log probabilities."""


class SlotParameters:
    """One array a parameter, [max_num_seqs] each, in the form in which the arithmetic wants it."""

    def __init__(self, max_num_seqs: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.temperature = np.zeros(max_num_seqs, np.float32)
        """0: greedy."""
        self.seed = np.zeros(max_num_seqs, np.uint64)
        self.log_min_p = np.full(max_num_seqs, -np.inf, np.float32)
        """Natural logarithm of min_p: -inf where it is off."""
        self.top_k = np.full(max_num_seqs, vocab_size, np.int64)
        """In 1..V: V where it is off."""
        self.top_p = np.ones(max_num_seqs, np.float64)
        self.num_logprobs = np.full(max_num_seqs, NO_LOGPROBS, np.int32)
        self.is_guided = np.zeros(max_num_seqs, bool)
        """A guide may forbid it tokens."""
        self.is_tried = np.zeros(max_num_seqs, bool)
        """Draws; and nothing but a guide changes its logits."""
        self.is_edited = np.zeros(max_num_seqs, bool)
        """Something changes its logits before the choice."""
        self.choice = np.full(max_num_seqs, Choice.LIKELIEST, np.int8)
        """The first Choice that will do."""

    def choice_of(self, slots: np.ndarray) -> Choice:
        """The first that will do for all of these slots [n]."""
        return Choice(self.choice[slots].max(initial=Choice.LIKELIEST))

    def put(self, admission: Admission, *, is_processed: bool, is_guided: bool = False) -> None:
        """Fill the admission's slot. ``is_processed``: whether anything but a guide changes its logits."""
        slot, params = admission.slot, admission.params
        self.temperature[slot] = 0.0 if params.is_greedy else params.temperature
        self.seed[slot] = admission.seed % 2**64
        self.log_min_p[slot] = math.log(params.min_p) if params.min_p > 0 else -np.inf
        self.top_k[slot] = min(params.top_k or self._vocab_size, self._vocab_size)
        self.top_p[slot] = params.top_p
        self.num_logprobs[slot] = NO_LOGPROBS if params.logprobs is None else params.logprobs
        self.is_guided[slot] = is_guided
        self.is_tried[slot] = is_guided and not is_processed and not params.is_greedy
        self.is_edited[slot] = is_processed or is_guided
        if params.logprobs is not None or is_processed:
            self.choice[slot] = Choice.SAMPLED
        elif is_guided:
            self.choice[slot] = Choice.LED
        else:
            self.choice[slot] = Choice.LIKELIEST if params.is_greedy else Choice.DRAWN
