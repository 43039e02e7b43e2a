"""``/v1/chat/completions``: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.outputs import Logprobs
from quire.server.schema.common import AnswerMetrics, JsonObject, ReasoningEffort, Usage
from quire.server.schema.generation import GenerationRequest
from quire.server.schema.llamacpp import Timings
from quire.server.schema.messages import MESSAGES_SCHEMA
from quire.server.schema.refused import REFUSED_IN_CHAT, Refusals
from quire.server.schema.tools import TOOL_CHOICE_SCHEMA, TOOLS_SCHEMA


class ChatCompletionRequest(GenerationRequest):
    refused: ClassVar[Refusals] = REFUSED_IN_CHAT

    messages: Annotated[Any, WithJsonSchema(MESSAGES_SCHEMA)]
    max_completion_tokens: int | None = Field(default=None, ge=0, lt=2**31, description="wins over max_tokens")
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=1000)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    documents: list[JsonObject] | None = None
    chat_template: str | None = Field(default=None, description="only where the server trusts requests' templates")
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE_SCHEMA)] = None
    parallel_tool_calls: bool = Field(default=True, description="false: the first call only")
    reasoning_effort: ReasoningEffort | None = Field(
        default=None, description="given to the chat template; none: do not reason"
    )
    include_reasoning: bool = Field(default=True, description="false: reasoning is left out of the answer")
    timings_per_token: bool = Field(default=False, description="with the usage, tell how long prompt and answer took")
    separate_reasoning: bool = Field(default=True, description="false: reasoning stays in the content, with its marks")
    stream_reasoning: bool = Field(default=True, description="a hint: a stream says reasoning as it comes")
    reasoning_format: Literal["auto", "none", "deepseek", "deepseek-legacy"] = Field(
        default="auto", description="none: as separate_reasoning false"
    )
    thinking_token_budget: int | None = Field(default=None, ge=-1, lt=2**31)


class BatchChatRequest(ChatCompletionRequest):
    """Settings for many conversations, each of which is answered once."""

    messages: Annotated[Any, WithJsonSchema({"type": "array", "items": MESSAGES_SCHEMA, "minItems": 1})]


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob, frozen=True):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChosenLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """``reasoning`` and ``reasoning_content`` are one thing under the two names that clients read."""

    role: str
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    matched_stop: int | str | None
    token_ids: list[int] | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: str | UnsetType = UNSET
    prompt_logprobs: list[Logprobs | None] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True):
    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The first of a call has its id, type and name; the others have more of its arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta


class ChatDelta(msgspec.Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    matched_stop: int | str | UnsetType | None = UNSET
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
    service_tier: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_text: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET
