"""``/v1/completions``: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.errors import InvalidRequest
from quire.core.outputs import Logprobs
from quire.server.schema.common import TOKEN_IDS_SCHEMA, AnswerMetrics, Usage
from quire.server.schema.generation import GenerationRequest
from quire.server.schema.refused import REFUSED_IN_COMPLETIONS, Refusals

Prompt = str | list[int]

_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
        TOKEN_IDS_SCHEMA,
        {"type": "array", "items": TOKEN_IDS_SCHEMA, "minItems": 1},
    ]
}


class CompletionRequest(GenerationRequest):
    refused: ClassVar[Refusals] = REFUSED_IN_COMPLETIONS

    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)]
    suffix: str | None = Field(default=None, description="fill in what stands between the prompt and this")
    logprobs: int | None = Field(default=None, ge=-1, lt=2**31)


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    matched_stop: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET
    prompt_text: str | UnsetType = UNSET
    prompt_logprobs: list[Logprobs | None] | UnsetType | None = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    service_tier: str | UnsetType = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET


class CompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. Written piece by piece in ``streaming``; this is its published shape."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    service_tier: str | UnsetType = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET


def prompts_of(value: Any, path: str = "$.prompt") -> list[Prompt]:
    """The prompts in any of the four forms; raises InvalidRequest naming the element that is not one."""
    if isinstance(value, str):
        return [_text(value, path)]
    if not isinstance(value, list):
        raise InvalidRequest(
            f"{path} is a {type(value).__name__}: it must be a string, token ids, or a list of either.", param=path
        )
    if not value:
        raise InvalidRequest(f"{path} is []: it must hold at least one prompt or token id.", param=path)
    if type(value[0]) is int:
        return [_ids(value, path)]
    if isinstance(value[0], str):
        return [_text(text, f"{path}[{i}]") for i, text in enumerate(value)]
    return [_ids(ids, f"{path}[{i}]") for i, ids in enumerate(value)]


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{path} is {value!r:.80}: where the first prompt is a string, all must be.", param=path)
    return value


def _ids(value: Any, path: str) -> list[int]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} is {value!r:.80}: it must be a list of token ids.", param=path)
    if not value:
        raise InvalidRequest(f"{path} is []: a prompt must hold at least one token id.", param=path)
    for i, token in enumerate(value):
        if type(token) is not int or not 0 <= token < 2**31:
            raise InvalidRequest(
                f"{path}[{i}] is {token!r:.80}: it must be a token id, an integer from 0 up.", param=f"{path}[{i}]"
            )
    return value
