"""``/v1/chat/completions``: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.outputs import Logprobs
from quire.server.schema.common import JsonObject, Usage
from quire.server.schema.generation import GenerationRequest
from quire.server.schema.messages import MESSAGES_SCHEMA
from quire.server.schema.refused import REFUSED_IN_CHAT, Refusals


class ChatCompletionRequest(GenerationRequest):
    refused: ClassVar[Refusals] = REFUSED_IN_CHAT

    messages: Annotated[Any, WithJsonSchema(MESSAGES_SCHEMA)]
    max_completion_tokens: int | None = Field(default=None, ge=0, lt=2**31, description="wins over max_tokens")
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=1000)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    documents: list[JsonObject] | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    reasoning_effort: str | None = Field(default=None, description="given to the chat template")


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChosenLogprob]
    refusal: None = None


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: list[Logprobs | None] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. Written piece by piece in ``streaming``; this is its published shape."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
