"""The door: a request's fields become SamplingParams.

A setting comes from the request, else from the model's own defaults, else from SamplingParams.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from quire.core.errors import InvalidRequest, QuireError
from quire.core.sampling_params import SamplingParams
from quire.server.schema.chat import ChatCompletionRequest
from quire.server.schema.completion import CompletionRequest
from quire.server.schema.generation import GenerationRequest

_NAMES = frozenset(SamplingParams.__struct_fields__)

_COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions generate when nothing is said."""


def chat_params(body: ChatCompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Raises InvalidRequest. Without a limit, an answer may fill the context."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest(
            f"top_logprobs is {body.top_logprobs} but logprobs is false: set logprobs to true.", param="$.top_logprobs"
        )
    _check_prompt_logprobs(body)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    limit = limit if limit is not None else defaults.get("max_tokens")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    with chat_paths(body):
        return _params(body, defaults, max_tokens=limit, logprobs=logprobs)


def completion_params(body: CompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Raises InvalidRequest. With echo, ``max_tokens: 0`` scores the prompt: one token is made, and not shown."""
    _check_prompt_logprobs(body)
    limit = body.max_tokens if body.max_tokens is not None else defaults.get("max_tokens", _COMPLETION_MAX_TOKENS)
    if limit == 0 and not body.echo:
        raise InvalidRequest("max_tokens is 0: it must be at least 1, unless echo is true.", param="$.max_tokens")
    prompt_logprobs = body.logprobs if body.echo and body.prompt_logprobs is None else body.prompt_logprobs
    return _params(body, defaults, max_tokens=max(1, limit), prompt_logprobs=prompt_logprobs)


@contextmanager
def chat_paths(body: ChatCompletionRequest) -> Iterator[None]:
    """Let errors name the fields of a chat request where the engine names its own."""
    names = {"$.prompt": "$.messages", "$.logprobs": "$.top_logprobs"}
    if body.max_completion_tokens is not None:
        names["$.max_tokens"] = "$.max_completion_tokens"
    try:
        yield
    except QuireError as error:
        if error.param is not None:
            error.param = names.get(error.param, error.param)
        raise


def _params(body: GenerationRequest, defaults: Mapping[str, Any], **decided: Any) -> SamplingParams:
    values = {name: value for name, value in defaults.items() if name in _NAMES}
    values |= {name: getattr(body, name) for name in body.model_fields_set & _NAMES}
    return SamplingParams(**values | decided)


def _check_prompt_logprobs(body: GenerationRequest) -> None:
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequest(
            "prompt_logprobs is set and stream is true: a stream does not return them, so turn one of them off.",
            param="$.prompt_logprobs",
        )
