"""What a caller gets: the same names and fields as vLLM's outputs, so that a script changes one import."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec


class OutputKind(Enum):
    """What each RequestOutput holds: all so far, only what is new, or all and only at the end."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    FINAL = "final"


class Logprob(msgspec.Struct, frozen=True):
    """One token's log probability (natural, float32) at one position."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Logprobs = dict[int, Logprob]
"""Token id -> Logprob: the chosen token first, then those that were asked for by name, then the likeliest."""


class CompletionOutput(msgspec.Struct, kw_only=True):
    """One continuation."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: list[Logprobs] | None = None
    finish_reason: str | None = None
    """None while running; then stop, length, repetition, abort or error."""
    stop_reason: int | str | None = None
    """The stop id or string that ended it; None for end of sequence and for length."""
    lora_request: Any = None

    def finished(self) -> bool:
        return self.finish_reason is not None


class BeamSearchSequence(msgspec.Struct, kw_only=True):
    """One beam. ``tokens`` and ``text`` are of the prompt and the continuation, without the token that ended it."""

    tokens: list[int]
    logprobs: list[Logprobs]
    """For each generated token, with the one that ended it."""
    cum_logprob: float
    score: float
    """The sum over the number of generated tokens to the power of the length penalty."""
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: Any = None


class BeamSearchOutput(msgspec.Struct):
    """A prompt's beams, best first."""

    sequences: list[BeamSearchSequence]


class RequestMetrics(msgspec.Struct, kw_only=True):
    """When things happened, in time.monotonic() seconds; None where they have not."""

    arrival_s: float
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    finished_s: float | None = None


class RequestOutput(msgspec.Struct, kw_only=True):
    """A request's state so far, or at its end."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[Logprobs | None] | None = None
    outputs: list[CompletionOutput] = []
    finished: bool = False
    metrics: RequestMetrics | None = None
    lora_request: Any = None
    num_cached_tokens: int | None = None
