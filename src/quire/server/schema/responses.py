"""``/v1/responses``: what is asked, and the object that is answered.

The object says what was asked back, with what took effect where nothing was said; its items are what the reply is
made of: reasoning, messages, calls of functions.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from quire.core.structured_outputs import SHAPES
from quire.server.schema.chat import ChosenLogprob
from quire.server.schema.common import JsonObject, QueryModel, ReasoningEffort, RequestModel, Usage
from quire.server.schema.generation import SamplingRequest
from quire.server.schema.refused import REFUSED_IN_RESPONSES, Refusals
from quire.server.schema.response_input import INPUT_SCHEMA
from quire.server.schema.response_settings import (
    FLAT_TOOLS_SCHEMA,
    RESPONSE_CHOICE_SCHEMA,
    TEXT_FORMAT_SCHEMA,
)

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    # What only tools of OpenAI's own, and images, bring: there is never any to include.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
Summary = Literal["auto", "concise", "detailed"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512)]


_NON_EMPTY_INPUT: JsonDict = {
    "properties": {"input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}},
    "required": ["input"],
}


class TextConfig(RequestModel):
    format: Annotated[Any, WithJsonSchema(TEXT_FORMAT_SCHEMA)] = None
    verbosity: Literal["low", "medium", "high"] | None = Field(default=None, description="a hint")


class ReasoningConfig(RequestModel):
    effort: ReasoningEffort | None = Field(default=None, description="given to the chat template; none: do not")
    summary: Summary | None = Field(default=None, description="the reasoning stands in the item's summary")
    generate_summary: Summary | None = Field(default=None, description="the old name of summary")
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class ResponseStreamOptions(RequestModel):
    include_obfuscation: bool | None = Field(default=None, description="a hint: there is none")


class ResponsesRequest(SamplingRequest):
    """One of ``input`` and ``previous_response_id`` must say something."""

    refused: ClassVar[Refusals] = REFUSED_IN_RESPONSES
    model_config = ConfigDict(json_schema_extra={"anyOf": [_NON_EMPTY_INPUT, {"required": ["previous_response_id"]}]})

    input: Annotated[Any, WithJsonSchema(INPUT_SCHEMA)] = None
    instructions: str | None = Field(default=None, description="a system message, not carried over to later responses")
    previous_response_id: str | None = Field(default=None, description="continue the conversation of this response")
    store: bool = Field(default=True, description="keep the response, for a while")
    background: bool = Field(default=False, description="answer at once; the response is made meanwhile")
    stream_options: ResponseStreamOptions = ResponseStreamOptions()
    include: list[Includable] = Field(default_factory=list)

    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**31, description="reasoning included")
    max_tool_calls: int | None = Field(default=None, ge=0, description="of built-in tools, of which there are none")
    top_logprobs: int | None = Field(default=None, ge=0, le=1000)
    truncation: Literal["auto", "disabled"] = Field(
        default="disabled", description="auto: leave out the oldest turns of a conversation that is too long"
    )

    tools: Annotated[Any, WithJsonSchema(FLAT_TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(RESPONSE_CHOICE_SCHEMA)] = None
    parallel_tool_calls: bool = Field(default=True, description="false: the first call only")
    text: TextConfig = TextConfig()
    structured_outputs: JsonObject | None = Field(
        default=None, description=f"in the place of text.format: one of {', '.join(SHAPES)}, and options"
    )
    reasoning: ReasoningConfig = ReasoningConfig()
    include_reasoning: bool = Field(default=True, description="false: reasoning is left out of the answer")
    thinking_token_budget: int | None = Field(default=None, ge=-1, lt=2**31)
    chat_template_kwargs: JsonObject = Field(default_factory=dict)

    metadata: dict[_MetadataKey, _MetadataValue] = Field(default_factory=dict, max_length=16)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(default=None, description="a hint: prefixes are found whoever asks")
    prompt_cache_retention: str | None = Field(default=None, description="a hint")

    @property
    def summary(self) -> Summary | None:
        return self.reasoning.summary or self.reasoning.generate_summary

    @property
    def has_logprobs(self) -> bool:
        return LOGPROBS in self.include or bool(self.top_logprobs)


class RetrieveQuery(QueryModel):
    stream: bool = Field(default=False, description="the stream of a background response, as far as it is and on")
    starting_after: int | None = Field(default=None, ge=0, lt=2**31, description="number of the last event known")


class InputItemsQuery(QueryModel):
    limit: int = Field(default=20, ge=1, le=100, description="most items in one list")
    order: Literal["asc", "desc"] = Field(default="desc", description="asc: oldest first")
    after: str | None = Field(default=None, min_length=1, description="id of the last item of the list before")


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[JsonObject] = []
    logprobs: list[ChosenLogprob] = []


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """``encrypted_content`` is the text once more, for clients that send nothing else of it back."""

    id: str
    status: ItemStatus
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    encrypted_content: str | UnsetType = UNSET


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = ""


OutputItem = OutputMessage | ReasoningItem | FunctionCall


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0
    """Tokens that are charged for being kept: none are."""


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        details = usage.completion_tokens_details
        return cls(
            usage.prompt_tokens,
            InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            usage.completion_tokens,
            OutputTokensDetails(0 if details is UNSET else details.reasoning_tokens),
            usage.total_tokens,
        )


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: Literal["max_output_tokens", "content_filter"]


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class TextSettings(msgspec.Struct, frozen=True):
    format: JsonObject
    verbosity: str | UnsetType = UNSET


class ReasoningSettings(msgspec.Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: ReasoningSettings
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: TextSettings
    tool_choice: str | JsonObject
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """``data``: items as they were understood, each with an id."""

    object: Literal["list"] = "list"
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
