"""What a client asked of the engine: immutable, complete, small enough to send.

Everything that a sequence needs to be run, or to be run again from any token, is here: this is what a client keeps
as its journal.
"""

import msgspec
import numpy as np

from quire.core.sampling_params import SamplingParams


class ReasoningMarks(msgspec.Struct, frozen=True, kw_only=True):
    """How a sequence's reasoning is bounded: the ids that end it, and how many may come before.

    ``is_open``: the reply begins inside reasoning; otherwise ``begin_ids`` open it.
    """

    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    is_open: bool
    budget: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and how to continue it, ``params.n`` times.

    ``handle`` is a number the client never reuses; continuation i of the request is known to both sides as
    ``handle + i``, so a client advances its counter by n. ``stop_token_ids`` are all ids that end a sequence (the
    model's end-of-sequence ids unless ``ignore_eos``, and the request's own).
    """

    handle: int
    request_id: str
    prompt: np.ndarray
    """[P] int32 token ids, P >= 1."""
    params: SamplingParams
    max_total_tokens: int
    """Prompt and output together stop here; at most the engine's max_model_len."""
    stop_token_ids: tuple[int, ...] = ()
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    seed: int = 0
    """Continuation i samples with ``seed + i`` (mod 2**64)."""
    grammar: str | None = None
    """What the answer must match, in llguidance's form: checked at the door, compiled again by the engine."""
    reasoning: ReasoningMarks | None = None
    """Given when reasoning has a budget."""
    priority: int = 0
    """Lower runs first, under the priority policy."""
    cache_salt: str = ""
    """Prefixes are shared only among requests of the same salt."""
    arrival_s: float = 0.0
    """time.monotonic() at the door."""
