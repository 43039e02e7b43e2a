"""Anthropic's Messages API: what is asked, what is answered, and the events of a stream.

Source: the published API. Beyond it: ``seed``, ``chat_template_kwargs`` and ``cache_salt``. ``cache_control`` may stand
anywhere and means nothing: every prompt's beginning is looked for in the cache.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.sampling_params import MAX_STOP_STRINGS
from quire.server.schema.anthropic_conversation import CONVERSATION_SCHEMA, SYSTEM_SCHEMA
from quire.server.schema.common import JsonObject, RequestModel, StopString, Usage
from quire.server.schema.refused import REFUSED_IN_MESSAGES, Refusals
from quire.server.schema.tools import MAX_TOOLS

_TOOL_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"enum": ["custom", None]},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,256}$"},
        "description": {"type": ["string", "null"]},
        "input_schema": {"type": "object"},
        "strict": {"type": ["boolean", "null"]},
    },
    "required": ["name", "input_schema"],
}
_TOOLS_SCHEMA = {"anyOf": [{"type": "array", "items": _TOOL_SCHEMA, "maxItems": MAX_TOOLS}, {"type": "null"}]}


class AutoToolChoice(RequestModel):
    type: Literal["auto"]
    disable_parallel_tool_use: bool = False


class AnyToolChoice(RequestModel):
    type: Literal["any"]
    disable_parallel_tool_use: bool = False


class NamedToolChoice(RequestModel):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool = False


class NoToolChoice(RequestModel):
    type: Literal["none"]
    disable_parallel_tool_use: bool = False


ToolChoiceRequest = AutoToolChoice | AnyToolChoice | NamedToolChoice | NoToolChoice


ThinkingDisplay = Annotated[
    Literal["summarized", "omitted", "updates"] | None, Field(description="thinking is shown as it is, or not at all")
]


class ThinkingEnabled(RequestModel):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1, lt=2**31, description="less than max_tokens")
    display: ThinkingDisplay = None


class ThinkingAdaptive(RequestModel):
    type: Literal["adaptive", "between_tools"]
    display: ThinkingDisplay = None


class ThinkingDisabled(RequestModel):
    type: Literal["disabled"]


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled


class OutputFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonObject = Field(alias="schema")


class OutputConfig(RequestModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="given to the chat template as reasoning_effort: low, medium or high"
    )
    format: OutputFormat | None = None


class CountTokensRequest(RequestModel):
    """A conversation."""

    refused: ClassVar[Refusals] = REFUSED_IN_MESSAGES

    model: str = Field(description="a served model's name")
    messages: Annotated[Any, WithJsonSchema(CONVERSATION_SCHEMA)]
    system: Annotated[Any, WithJsonSchema(SYSTEM_SCHEMA)] = None
    tools: Annotated[Any, WithJsonSchema(_TOOLS_SCHEMA)] = None
    tool_choice: Annotated[ToolChoiceRequest, Field(discriminator="type")] | None = None
    thinking: Annotated[Thinking, Field(discriminator="type")] | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = Field(default=None, description="the older place of output_config.format")
    thread: Annotated[Any, WithJsonSchema({"type": "null"})] = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)

    @property
    def format(self) -> OutputFormat | None:
        return self.output_config.format or self.output_format


class MessagesRequest(CountTokensRequest):
    """A conversation, and how to go on with it."""

    max_tokens: int = Field(ge=0, lt=2**31, description="0: only take the prompt into the cache")
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, lt=2**31, description="0: the whole vocabulary")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    metadata: JsonObject | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_salt: str = Field(default="", max_length=1024, description="share cached prefixes only within equal salts")


class AnthropicTextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""
    """Nothing is signed: thinking comes back as it is."""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: JsonObject


Block = AnthropicTextBlock | ThinkingBlock | ToolUseBlock


class ThinkingTokens(msgspec.Struct, frozen=True):
    thinking_tokens: int


class AnthropicUsage(msgspec.Struct, frozen=True, kw_only=True):
    """``input_tokens`` are those that were not found in the cache. All counts are totals so far."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens | UnsetType = UNSET
    service_tier: Literal["standard"] | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage, max_tokens: int) -> "AnthropicUsage":
        cached = usage.prompt_tokens_details.cached_tokens
        details = usage.completion_tokens_details
        return cls(
            input_tokens=usage.prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=min(usage.completion_tokens, max_tokens),
            output_tokens_details=UNSET if details is UNSET else ThinkingTokens(details.reasoning_tokens),
        )


class AnthropicMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: AnthropicUsage


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    message: AnthropicMessage


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Also what a stream says in a silence."""


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: Block


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str = ""


class InputDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: Delta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(msgspec.Struct, frozen=True):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: MessageEnd
    usage: AnthropicUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    """The last event."""


StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class AnthropicError(msgspec.Struct, frozen=True):
    type: str
    message: str
    details: JsonObject | UnsetType = UNSET
    """A code that clients act on."""


class AnthropicErrorBody(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    error: AnthropicError


class AnthropicModel(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    """RFC 3339."""
    max_input_tokens: int
    max_tokens: int
    lifecycle: Literal["active"] = "active"


class AnthropicModelList(msgspec.Struct, frozen=True, kw_only=True):
    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None
