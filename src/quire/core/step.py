"""The values of one engine step: what the scheduler decided, what the model answered, what the client is told.

    Request -> SchedulerOutput -> ModelOutput -> StepOutput -> RequestOutput

All are plain data. Arrays are numpy, one row a sequence; a *row* is a place in this step, a *slot* a sequence's place
in the arrays for as long as it runs, a *handle* its name for the client.
"""

from enum import StrEnum

import msgspec
import numpy as np

from quire.core.request import ReasoningMarks
from quire.core.sampling_params import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    ABORT = "abort"
    ERROR = "error"


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence that takes a slot in this step, new or resumed after preemption."""

    slot: int
    handle: int
    tokens: np.ndarray
    """[L] int32: prompt, and what was generated before a preemption."""
    prompt_len: int
    params: SamplingParams
    seed: int
    stop_token_ids: tuple[int, ...]
    bad_word_ids: tuple[tuple[int, ...], ...]
    num_computed_tokens: int
    """KV that is already there, from the prefix cache."""
    grammar: str | None = None
    """Compiled already; see Request."""
    reasoning: ReasoningMarks | None = None


class SchedulerOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One step's work. Apply in this order: released, admitted, block_updates, block_copies; then compute.

    Row i computes KV for tokens ``starts[i] : starts[i] + counts[i]`` of the sequence in ``slots[i]``, and samples its
    next token if ``samples[i]`` (the chunk reaches the end of what is known of the sequence).
    """

    released: np.ndarray
    """[n] int64 slots whose sequences are gone; may be taken again by ``admitted`` of the same step."""
    admitted: list[Admission]
    block_updates: np.ndarray
    """[n, 3] int64 (slot, index in the block table, block id)."""
    block_copies: np.ndarray
    """[n, 3] int32 (from block, to block, tokens to copy): prefix hits that end inside a block."""
    slots: np.ndarray
    """[S] int64. The same array as before where they are the same; nobody writes it."""
    starts: np.ndarray
    """[S] int64."""
    counts: np.ndarray
    """[S] int64, each >= 1."""
    samples: np.ndarray
    """[S] bool."""
    is_decode: bool = False
    """Whether every row computes one token and samples the next: said, so that nobody has to look."""

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to apply before it is computed."""
        return bool(self.admitted or len(self.released) or len(self.block_updates) or len(self.block_copies))

    @property
    def num_tokens(self) -> int:
        return self.slots.size if self.is_decode else int(self.counts.sum())

    @property
    def sampled_slots(self) -> np.ndarray:
        """[R]: of the rows that sample."""
        return self.slots if self.is_decode else self.slots[self.samples]

    @property
    def sampled_positions(self) -> np.ndarray:
        """[R]: of the tokens that are sampled."""
        ends: np.ndarray = self.starts + self.counts
        return ends if self.is_decode else ends[self.samples]


class TopLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities at one position: of g tokens, the chosen one first, and of the k likeliest, best first."""

    token_ids: np.ndarray
    """[g + k] int32."""
    logprobs: np.ndarray
    """[g + k] float32."""
    ranks: tuple[int, ...]
    """[g], 1 = likeliest."""


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Scores of consecutive prompt tokens; ``first`` is the position of the first one scored, >= 1."""

    first: int
    entries: list[TopLogprobs]


class ModelOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a step produced, for the R rows with ``samples`` set, in their order."""

    token_ids: np.ndarray
    """[R] int32; -1 where there is none to choose (the sequence fails, the others go on)."""
    forced: dict[int, np.ndarray] = {}
    """By index into ``token_ids``: tokens [k] int32, k >= 1, that must follow and were not sampled; their KV is yet to
    be computed, as a prompt's is. Not for sequences that asked for log probabilities."""
    concluded: frozenset[int] = frozenset()
    """Indexes of sequences that are over with their last token here, whatever their min_tokens."""
    failures: dict[int, str] = {}
    """By index, why a token is -1; not given where the model's logits were not finite."""
    logprobs: dict[int, TopLogprobs] = {}
    """By index, for sequences that asked."""
    prompt_logprobs: dict[int, PromptLogprobs] = {}
    """By slot: the prompt tokens that this step's chunk predicts, for sequences that asked."""


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A sequence left the queue for the first time."""

    handle: int
    num_cached_tokens: int
    scheduled_s: float


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """A sequence ended; nothing more of it will come."""

    handle: int
    reason: FinishReason
    stop_token_id: int | None = None
    """The stop id that ended it, if it was one."""
    error: str | None = None


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Gauges of this moment, and counters since the engine started."""

    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    """Prompt tokens whose KV was computed."""
    num_generation_tokens: int = 0
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache."""
    prefix_hits: int = 0
    step_tokens: int = 0
    """Tokens computed in this step."""


class StepOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What clients are told after a step. Rows of a handle come in token order."""

    handles: list[int]
    """[R]."""
    token_ids: list[int]
    """[R]. Lists: what reads them looks at one after another. Nobody writes them: the next step may have the same."""
    time_s: float
    """time.monotonic() when the tokens were known."""
    started: list[Started] = []
    finished: list[Finished] = []
    logprobs: dict[int, TopLogprobs] = {}
    """By row."""
    prompt_logprobs: dict[int, PromptLogprobs] = {}
    """By handle. Pieces arrive in prompt order; after a preemption some come again."""
    stats: EngineStats | None = None
