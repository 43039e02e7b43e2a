"""How one request wants its tokens chosen. Frozen, and valid from birth.

The fields, defaults and ranges follow the OpenAI API and vLLM's extensions of it, so scripts move over unchanged.
What depends on the model (vocabulary size, context length) is checked at the door by ``engine.intake``.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from quire.core.errors import InvalidRequest
from quire.core.structured_outputs import StructuredOutputs

MAX_N = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 1024
MAX_BAD_WORDS = 128
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGPROB_TOKEN_IDS = 128
MAX_PATTERN_SIZE = 1024
MAX_REPETITION_PENALTY = 1e6
"""Logits stay finite in float32 between this and its inverse."""
MAX_LENGTH_PENALTY = 10.0
_SHOWN_KEYS = 8
GREEDY_EPS = 1e-5
"""Temperatures below this choose the likeliest token."""


class RepetitionDetection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """End an answer once it writes a pattern of so many tokens, from ``min_pattern_size`` to ``max_pattern_size``,
    ``min_count`` times in a row.
    """

    max_pattern_size: int
    min_pattern_size: int = 1
    min_count: int = 2

    def __post_init__(self) -> None:
        if self.min_pattern_size == 0:
            msgspec.structs.force_setattr(self, "min_pattern_size", 1)
        path = "repetition_detection"
        _within(f"{path}.max_pattern_size", self.max_pattern_size, 1, MAX_PATTERN_SIZE, whole=True)
        _within(f"{path}.min_pattern_size", self.min_pattern_size, 1, self.max_pattern_size, whole=True)
        _within(f"{path}.min_count", self.min_count, 2, 2**31 - 1, whole=True)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sampling settings of one request.

    ``max_tokens=None`` means up to the end of the context. ``seed=None`` draws a fresh seed at admission.
    ``logprobs=k`` returns the k likeliest tokens at each step and the chosen one; ``prompt_logprobs`` likewise for
    the prompt. ``top_k`` 0 or -1 keeps the whole vocabulary. Raises InvalidRequest, with the field's path.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: tuple[int, ...] = ()
    """Tokens whose log probabilities are returned too, wherever any are, whatever their rank: labels to choose from."""
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    """Keep only this many prompt tokens; -1 keeps as many as the context holds."""
    truncation_side: Literal["left", "right"] = "left"
    """Where a prompt that is too long loses tokens."""
    structured_outputs: StructuredOutputs | None = None
    """The shape that the answer must have."""
    thinking_token_budget: int | None = None
    """Most tokens of reasoning before its end is written for the model; None or -1: no limit."""
    shown_special_token_ids: tuple[int, ...] = ()
    """Special tokens that appear in the text all the same, when others are skipped."""
    repetition_detection: RepetitionDetection | None = None
    penalty_window: int | None = None
    """Penalties look at this many of the last tokens, of prompt and answer alike. None: repetition looks at all, and
    frequency and presence at the answer."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_EPS

    @property
    def has_penalties(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1

    def replace(self, **changes: Any) -> "SamplingParams":
        """A copy with some fields changed, validated anew."""
        return msgspec.structs.replace(self, **changes)

    def __post_init__(self) -> None:
        put = msgspec.structs.force_setattr
        put(self, "stop", _strings("stop", self.stop))
        put(self, "bad_words", _strings("bad_words", self.bad_words))
        put(self, "stop_token_ids", tuple(dict.fromkeys(_ids("stop_token_ids", self.stop_token_ids or ()))))
        put(self, "logprob_token_ids", tuple(dict.fromkeys(_ids("logprob_token_ids", self.logprob_token_ids or ()))))
        if self.allowed_token_ids is not None:
            put(self, "allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
        if self.logit_bias is not None:
            put(self, "logit_bias", _bias(self.logit_bias))
        if self.logprobs is True or self.logprobs is False:
            put(self, "logprobs", 1 if self.logprobs else None)
        if self.logprob_token_ids and self.logprobs is None:
            put(self, "logprobs", 0)
        if self.top_k == -1:
            put(self, "top_k", 0)
        if self.seed == -1:
            put(self, "seed", None)
        if self.thinking_token_budget == -1:
            put(self, "thinking_token_budget", None)
        put(self, "shown_special_token_ids", _ids("shown_special_token_ids", self.shown_special_token_ids))
        self._check()

    def _check(self) -> None:
        _within("n", self.n, 1, MAX_N, whole=True)
        _within("temperature", self.temperature, 0.0, 2.0)
        _within("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _within("top_k", self.top_k, 0, 2**31 - 1, whole=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("repetition_penalty", self.repetition_penalty, 1 / MAX_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
        _within("min_tokens", self.min_tokens, 0, 2**31 - 1, whole=True)
        for name, low in (("max_tokens", 1), ("logprobs", -1), ("prompt_logprobs", -1), ("truncate_prompt_tokens", -1)):
            value = getattr(self, name)
            if value is not None:
                _within(name, value, low, 2**31 - 1, whole=True)
        if self.penalty_window is not None:
            _within("penalty_window", self.penalty_window, 1, 2**31 - 1, whole=True)
        if self.thinking_token_budget is not None:
            _within("thinking_token_budget", self.thinking_token_budget, 0, 2**31 - 1, whole=True)
        if self.seed is not None:
            _within("seed", self.seed, -(2**63), 2**63 - 1, whole=True)
        if self.truncation_side not in ("left", "right"):
            raise _bad("truncation_side", self.truncation_side, "must be left or right")
        if self.truncate_prompt_tokens == 0:
            raise _bad("truncate_prompt_tokens", 0, "must be at least 1, or -1 for as many as the context holds")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _bad("min_tokens", self.min_tokens, f"must not exceed {self.max_tokens}, the most that are asked for")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise _bad("stop", len(self.stop), f"has too many strings; at most {MAX_STOP_STRINGS} are allowed")
        if any(len(text) > MAX_STOP_STRING_CHARS for text in self.stop):
            raise _bad("stop", "...", f"has a string of more than {MAX_STOP_STRING_CHARS} characters")
        if self.stop and not self.detokenize:
            raise _bad("stop", self.stop, "needs detokenize=True, since stop strings are looked for in the text")
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise _bad("stop_token_ids", len(self.stop_token_ids), f"is too long; at most {MAX_STOP_TOKEN_IDS} ids")
        if len(self.logprob_token_ids) > MAX_LOGPROB_TOKEN_IDS:
            count = len(self.logprob_token_ids)
            raise _bad("logprob_token_ids", count, f"is too long; at most {MAX_LOGPROB_TOKEN_IDS} ids")
        if len(self.bad_words) > MAX_BAD_WORDS:
            raise _bad("bad_words", len(self.bad_words), f"has too many words; at most {MAX_BAD_WORDS} are allowed")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise _bad("allowed_token_ids", [], "must not be empty: nothing could be generated")


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request wants its beams. ``max_tokens=None`` means up to the end of the context.

    A hypothesis that ends after L tokens scores the sum of their log probabilities over L ** ``length_penalty``; a
    greater penalty favours longer ones. Nothing is sampled: ``temperature`` 0 and 1 mean the same, others are refused.
    ``logprobs=k`` returns the k likeliest tokens at each step and the chosen one. Raises InvalidRequest.
    """

    beam_width: int
    max_tokens: int | None
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    skip_special_tokens: bool = True
    shown_special_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _within("beam_width", self.beam_width, 1, MAX_N, whole=True)
        _within("length_penalty", self.length_penalty, -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)
        if self.temperature not in (0, 1):
            raise _bad("temperature", self.temperature, "must be 0 with beam search, which does not sample")
        shared = ("max_tokens", "stop", "stop_token_ids", "min_tokens", "logprobs", "shown_special_token_ids")
        checked = SamplingParams(**{name: getattr(self, name) for name in shared})
        for name in shared:
            msgspec.structs.force_setattr(self, name, getattr(checked, name))


def _bad(name: str, value: object, why: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is {value!r}: it {why}.", param=f"$.{name}")


def _within(name: str, value: object, low: float, high: float, *, whole: bool = False, open_low: bool = False) -> None:
    wanted = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise _bad(name, value, f"must be {'an integer' if whole else 'a number'}")
    if not low <= value <= high or (open_low and value == low):
        raise _bad(name, value, f"must be {'greater than' if open_low else 'at least'} {low} and at most {high}")


def _strings(name: str, value: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value or ())
    for text in texts:
        if not isinstance(text, str) or not text:
            raise _bad(name, text, "must hold non-empty strings only")
    return texts


def _ids(name: str, value: Sequence[int]) -> tuple[int, ...]:
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0 or token >= 2**31:
            raise _bad(name, token, "must hold token ids, integers from 0 up")
    return tuple(value)


def _is_id(key: object) -> bool:
    if isinstance(key, int):
        return not isinstance(key, bool)
    return isinstance(key, str) and key.removeprefix("-").isdecimal() and len(key) < 12


def _bias(value: dict[Any, Any]) -> dict[int, float]:
    if len(value) > MAX_LOGIT_BIAS:
        raise _bad("logit_bias", len(value), f"has too many entries; at most {MAX_LOGIT_BIAS} are allowed")
    strangers = [key for key in value if not _is_id(key)]
    if strangers:
        shown = ", ".join(map(repr, strangers[:_SHOWN_KEYS])) + (", ..." if len(strangers) > _SHOWN_KEYS else "")
        raise InvalidRequest(f"logit_bias has the keys {shown:.400}: keys must be token ids.", param="$.logit_bias")
    bias: dict[int, float] = {}
    for key, amount in value.items():
        token = int(key)
        _ids("logit_bias", [token])
        _within(f"logit_bias.{token}", amount, -100.0, 100.0)
        if token in bias:
            raise InvalidRequest(f"logit_bias names token id {token} twice, as {key!r} too.", param="$.logit_bias")
        bias[token] = float(amount)
    return bias
