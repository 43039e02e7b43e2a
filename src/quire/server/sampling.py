"""The door: a request's fields become SamplingParams.

A setting comes from the request, else from the model's own defaults, else from SamplingParams.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from quire.core.errors import InvalidRequest, QuireError, Unsupported
from quire.core.sampling_params import RepetitionDetection, SamplingParams
from quire.server.penalties import penalties
from quire.server.schema.chat import ChatCompletionRequest
from quire.server.schema.completion import CompletionRequest
from quire.server.schema.generation import GenerationRequest, SamplingRequest
from quire.server.schema.response_settings import response_shape_of
from quire.server.schema.responses import ResponsesRequest
from quire.server.schema.shapes import shape_of

_NAMES = frozenset(SamplingParams.__struct_fields__)

_COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions generate when nothing is said."""


def chat_params(body: ChatCompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Raises InvalidRequest. Without a limit, an answer may fill the context."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest(
            f"top_logprobs is {body.top_logprobs} but logprobs is false: set logprobs to true.", param="$.top_logprobs"
        )
    if body.best_of is not None and body.best_of != body.n and not body.use_beam_search:
        raise Unsupported(
            f"best_of is {body.best_of} and n is {body.n}: a chat answer has every reply that is made, so leave "
            "best_of out.",
            param="$.best_of",
        )
    _check_stream(body)
    _check_named(body, is_on=bool(body.logprobs), to="true")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if limit is None and body.n_predict is not None:
        limit = _predicted(body.n_predict)
    logprobs = (0 if body.logprob_token_ids else body.top_logprobs or 0) if body.logprobs else None
    with chat_paths(body):
        return _params(body, defaults, max_tokens=limit, logprobs=logprobs, **_beside(body))


def completion_params(body: CompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Raises InvalidRequest. With echo, ``max_tokens: 0`` scores the prompt: one token is made, and not shown.

    ``n`` of the result is ``best_of``, where that is given: so many are made. A beam search gives ``n`` in any case.
    """
    _check_stream(body)
    _check_named(body, is_on=body.logprobs is not None, to="0")
    num_made = body.n if body.use_beam_search else num_continuations(body)
    limit: int | None = _COMPLETION_MAX_TOKENS
    if body.max_tokens is not None:
        limit = body.max_tokens
        if limit == 0 and not body.echo:
            raise InvalidRequest("max_tokens is 0: it must be at least 1, unless echo is true.", param="$.max_tokens")
    elif body.n_predict is not None:
        limit = _predicted(body.n_predict)
    prompt_logprobs = body.logprobs if body.echo and body.prompt_logprobs is None else body.prompt_logprobs
    decided: dict[str, Any] = {"max_tokens": limit, "prompt_logprobs": prompt_logprobs, "n": num_made}
    if body.max_tokens == 0:
        decided["max_tokens"] = 1
        if body.logprob_token_ids:
            raise InvalidRequest(
                "logprob_token_ids is given and max_tokens is 0: it is told of generated tokens, of which there are "
                "none.",
                param="$.logprob_token_ids",
            )
    if body.logprob_token_ids:
        decided["logprobs"] = 0
    if num_made > body.n and body.logprobs is None:
        decided["logprobs"] = 0  # they are chosen by their likelihood
    return _params(body, defaults, **decided, **_beside(body))


def num_continuations(body: CompletionRequest) -> int:
    """How many are made of each prompt; raises InvalidRequest for a ``best_of`` that cannot be."""
    if body.best_of is None:
        return body.n
    if body.best_of < body.n:
        raise InvalidRequest(
            f"best_of is {body.best_of} and n is {body.n}: of so many continuations, n cannot be returned.",
            param="$.best_of",
        )
    if body.stream and body.best_of > body.n:
        raise InvalidRequest(
            f"best_of is {body.best_of} and stream is true: which continuations are best is known when all have ended, "
            "so turn one of them off.",
            param="$.best_of",
        )
    return body.best_of


def response_params(body: ResponsesRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Raises InvalidRequest. Without a limit, an answer may fill the context."""
    logprobs = (body.top_logprobs or 0) if body.has_logprobs else None
    with response_paths(body):
        return _params(body, defaults, max_tokens=body.max_output_tokens, logprobs=logprobs)


@contextmanager
def chat_paths(body: ChatCompletionRequest) -> Iterator[None]:
    """Let errors name the fields of a chat request where the engine names its own."""
    names = {"$.prompt": "$.messages", "$.logprobs": "$.top_logprobs"}
    if body.max_completion_tokens is not None:
        names["$.max_tokens"] = "$.max_completion_tokens"
    with beam_paths(body), shape_paths(body), renamed(names):
        yield


def beam_paths(body: GenerationRequest) -> AbstractContextManager[None]:
    """Let errors name the field of a request that says how wide a beam search is."""
    return renamed({"$.beam_width": "$.n" if body.best_of is None else "$.best_of"})


def shape_paths(body: GenerationRequest) -> AbstractContextManager[None]:
    """Let errors name the field of a request that says which shape the answer must have."""
    shape = shape_of(body)
    return nullcontext() if shape is None else shape.named()


@contextmanager
def response_paths(body: ResponsesRequest) -> Iterator[None]:
    """Let errors name the fields of a Responses request where the engine, or a conversation, names its own."""
    names = {
        "$.prompt": "$.input",
        "$.messages": "$.input",
        "$.max_tokens": "$.max_output_tokens",
        "$.logprobs": "$.top_logprobs",
    }
    shape = response_shape_of(body.text.format, body.structured_outputs)
    with nullcontext() if shape is None else shape.named(), renamed(names):
        yield


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors that name one of these paths name the other."""
    try:
        yield
    except QuireError as error:
        _rename(error, names)
        raise


def _rename(error: QuireError, names: Mapping[str, str]) -> None:
    """``names``: paths, and what they are to be called; what is below a path goes with it. The first one counts."""
    param = error.param
    for ours, theirs in names.items():
        if param is not None and (param == ours or param.startswith((f"{ours}.", f"{ours}["))):
            error.param = theirs + param[len(ours) :]
            name = f"{param.removeprefix('$.')} "
            if param in error.message:
                error.message = error.message.replace(param, error.param)
            elif error.message.startswith(name):
                error.message = f"{error.param} {error.message.removeprefix(name)}"
            return


def _params(body: SamplingRequest, defaults: Mapping[str, Any], **decided: Any) -> SamplingParams:
    values = {**defaults}
    values |= {name: getattr(body, name) for name in body.model_fields_set & _NAMES - {"structured_outputs"}}
    if (wanted := body.repetition_detection) is not None:
        is_on = wanted.max_pattern_size > 0
        values["repetition_detection"] = RepetitionDetection(**wanted.model_dump()) if is_on else None
    return SamplingParams(**values | decided)


def _predicted(n_predict: int) -> int | None:
    """llama.cpp's limit; None where the context is the only one. Raises InvalidRequest for none at all."""
    if n_predict == 0:
        raise InvalidRequest("n_predict is 0: it must be at least 1, or -1 for no limit.", param="$.n_predict")
    return None if n_predict < 0 else n_predict


def _beside(body: GenerationRequest) -> dict[str, Any]:
    """What is said in words that are not the engine's: penalties in llama.cpp's, and the answer's shape."""
    said, shape = penalties(body.repeat_penalty, body.repeat_last_n), shape_of(body)
    return said if shape is None else said | {"structured_outputs": shape.wanted}


def _check_named(body: GenerationRequest, *, is_on: bool, to: str) -> None:
    if body.logprob_token_ids and not is_on:
        raise InvalidRequest(
            f"logprob_token_ids is given and logprobs is not: set logprobs to {to}, or leave logprob_token_ids out.",
            param="$.logprob_token_ids",
        )


def _check_stream(body: GenerationRequest) -> None:
    if not body.stream and "stream_options" in body.model_fields_set:
        raise InvalidRequest(
            "stream_options is given and stream is false: set stream to true, or leave stream_options out.",
            param="$.stream_options",
        )
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequest(
            "prompt_logprobs is set and stream is true: a stream does not return them, so turn one of them off.",
            param="$.prompt_logprobs",
        )
