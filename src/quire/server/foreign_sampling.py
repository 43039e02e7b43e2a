"""The door of APIs other than OpenAI's: what Anthropic's and Ollama's requests ask for becomes SamplingParams.

A setting comes from the request, else from the model's own defaults, else from the API's, where it has well-known ones.
"""

import re
from collections.abc import Mapping
from typing import Any

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import SamplingParams
from quire.core.structured_outputs import StructuredOutputs
from quire.server.penalties import penalties
from quire.server.schema.anthropic import MessagesRequest, ThinkingEnabled
from quire.server.schema.ollama import OllamaRequest
from quire.server.schema.refused import REFUSED_OPTIONS, refuse

_LEAST_TOP_P = 1e-9
"""Keeps the likeliest token only, which is what a top_p of 0 asks for."""

_OLLAMA_DEFAULTS: Mapping[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
_OLLAMA_WINDOW = 64
"""How many tokens penalties look at, if nothing is said."""
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?)(ns|us|µs|ms|s|m|h)")


MESSAGE_PATHS = {
    "$.prompt": "$.messages",
    "$.stop": "$.stop_sequences",
    "$.thinking_token_budget": "$.thinking.budget_tokens",
    "$.structured_outputs.json": "$.output_config.format.schema",
    "$.structured_outputs": "$.output_config.format",
}
"""Of fields, where the engine's names for them are others: in Anthropic's requests."""

OLLAMA_PATHS = {
    "$.max_tokens": "$.options.num_predict",
    "$.repetition_penalty": "$.options.repeat_penalty",
    "$.penalty_window": "$.options.repeat_last_n",
    **{
        f"$.{name}": f"$.options.{name}"
        for name in (
            *("temperature", "top_k", "top_p", "min_p", "seed", "stop"),
            *("presence_penalty", "frequency_penalty"),
        )
    },
    "$.logprobs": "$.top_logprobs",
    "$.structured_outputs.json": "$.format",
    "$.structured_outputs": "$.format",
}
"""And in Ollama's; where the prompt is a conversation, it is ``$.messages``."""


def message_params(body: MessagesRequest, defaults: Mapping[str, Any], max_model_len: int) -> SamplingParams:
    """Raises InvalidRequest. ``max_tokens``, which every request must name, may be more than the context holds.

    With ``max_tokens: 0`` one token is made, and not shown.
    """
    names = ("temperature", "top_p", "top_k", "seed")
    values = {**defaults}
    values |= {name: value for name in names if (value := getattr(body, name)) is not None}
    thinking, shape = body.thinking, body.format
    if isinstance(thinking, ThinkingEnabled):
        values["thinking_token_budget"] = thinking.budget_tokens
    if shape is not None:
        values["structured_outputs"] = StructuredOutputs(json=shape.json_schema)
    if "top_p" in values:
        values["top_p"] = max(values["top_p"], _LEAST_TOP_P)
    values["max_tokens"] = max(1, min(body.max_tokens, max_model_len))
    values["stop"] = tuple(body.stop_sequences or ())
    return SamplingParams(**values)


def ollama_params(body: OllamaRequest, defaults: Mapping[str, Any], max_model_len: int) -> SamplingParams:
    """Raises InvalidRequest. ``num_predict`` may be more than the context holds."""
    options = body.options
    refuse(options.model_extra or {}, REFUSED_OPTIONS, "$.options")
    if options.num_ctx is not None and options.num_ctx > max_model_len:
        raise InvalidRequest(
            f"$.options.num_ctx is {options.num_ctx}: the context here is {max_model_len} tokens (--max-model-len).",
            param="$.options.num_ctx",
        )
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest(
            f"$.top_logprobs is {body.top_logprobs} but logprobs is false: set logprobs to true.",
            param="$.top_logprobs",
        )
    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "seed")
    values = {**_OLLAMA_DEFAULTS, **defaults}
    values |= {name: value for name in names if (value := getattr(options, name)) is not None}
    window = _OLLAMA_WINDOW if options.repeat_last_n is None else options.repeat_last_n
    values |= penalties(options.repeat_penalty, window)
    values["top_p"] = max(values["top_p"], _LEAST_TOP_P)
    values["max_tokens"] = _max_tokens(options.num_predict, max_model_len)
    values["stop"] = options.stop or ()
    values["logprobs"] = body.top_logprobs if body.logprobs else None
    if body.format:
        is_any = body.format == "json"
        shape = StructuredOutputs(json_object=True) if is_any else StructuredOutputs(json=body.format)
        values["structured_outputs"] = shape
    return SamplingParams(**values)


def _max_tokens(num_predict: int | None, max_model_len: int) -> int | None:
    if num_predict == 0:
        raise InvalidRequest(
            "$.options.num_predict is 0: it must be at least 1, or -1 for as many as the context holds.",
            param="$.options.num_predict",
        )
    return None if num_predict is None or num_predict < 0 else min(num_predict, max_model_len)


def keep_alive_s(value: float | str | None) -> float | None:
    """Seconds: of a number, or of text such as 5m or 1h30m. Negative: for ever. Raises InvalidRequest."""
    if value is None or not isinstance(value, str):
        return value
    text = value.strip().removeprefix("+")
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if re.fullmatch(r"[0-9]{1,18}", text):
        return sign * float(text)
    raise InvalidRequest(
        f"$.keep_alive is {value[:80]!r}: it must be seconds, or a duration such as 5m or 1h30m.", param="$.keep_alive"
    )
