"""Sampling that stays on a device: the words for it, and what computes it.

As in ``sampling.py``, of which every choice and score is the same; but what goes in and comes out are tensors on the
device, and nothing is read back. Law: these methods only launch work, of a size that the host knows; so a captured
graph may hold them.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from torch import Tensor


class Real(IntEnum):
    """Columns of SlotTables.reals."""

    TEMPERATURE = 0
    LOG_MIN_P = 1
    TOP_P = 2
    REPETITION = 3
    FREQUENCY = 4
    PRESENCE = 5


class Whole(IntEnum):
    """Columns of SlotTables.wholes."""

    TOP_K = 0
    SEED = 1
    """The bits of a uint64."""
    PLACE = 2
    """Row of the sequence's counts, -1 without penalties."""


@dataclass(frozen=True, slots=True)
class SlotTables:
    """What each slot wants of a choice, on the device. A slot that was never filled wants the likeliest token."""

    reals: Tensor
    """[slots, len(Real)] float64; those that are float32 elsewhere hold such numbers."""
    wholes: Tensor
    """[slots, len(Whole)] int64."""


@dataclass(frozen=True, slots=True)
class DeviceDraws:
    """As Draws, on the device: [n] each, of the same dtypes."""

    temperature: Tensor
    log_min_p: Tensor
    top_k: Tensor
    top_p: Tensor
    uniforms: Tensor
    has_random: bool = True
    """False where it is known that every row takes the likeliest token: then the rest is not read."""
    has_cut: bool = True
    """False where it is known that no row has top_k or top_p."""


@dataclass(frozen=True, slots=True)
class DeviceScores:
    """As Scores of one given token, on the device."""

    token_ids: Tensor
    """[n, 1 + k] int32."""
    logprobs: Tensor
    """[n, 1 + k] float32."""
    ranks: Tensor
    """[n] int64."""


class DeviceSampling(Protocol):
    """What computes it. Lives on a worker."""

    def wishes(
        self, tables: SlotTables, slots: Tensor, positions: Tensor, *, has_random: bool, has_cut: bool
    ) -> DeviceDraws:
        """The draws of ``slots`` [n] int64 at ``positions`` [n] int64, uniform numbers among them (see uniforms)."""
        ...

    def draw(self, logits: Tensor, draws: DeviceDraws) -> Tensor:
        """As Sampling.draw_tokens: [n] int32."""
        ...

    def score(self, logits: Tensor, rows: Tensor, tokens: Tensor, k: int) -> DeviceScores:
        """As Sampling.score_tokens, of ``rows`` and ``tokens`` [n], int32 or int64; a token of -1 is scored as 0."""
        ...

    def allow(self, logits: Tensor, rows: Tensor, masks: Tensor) -> None:
        """As Sampling.keep_allowed, of ``rows`` [n] and contiguous ``masks`` [n, W] int32."""
        ...

    def penalise(self, logits: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor, in_prompt: Tensor) -> None:
        """Lower, in place, the logits [n, V] of tokens seen before, as decoding's penalties do.

        ``counts`` [P, V] int32 of the output and ``in_prompt`` [P, V] bool, by Whole.PLACE.
        """
        ...

    def count(self, tokens: Tensor, slots: Tensor, tables: SlotTables, counts: Tensor) -> None:
        """Add the tokens [n] int32 just chosen to ``counts``; those of -1, and slots without penalties, not."""
        ...
