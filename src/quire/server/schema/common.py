"""Shapes that several API families answer with.

Answers are msgspec structs (0.4 us to encode a chunk); what a client sends is a pydantic model (fine-grained errors).
Fields beyond OpenAI's API are left out of an answer until asked for (UNSET).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from quire.core.outputs import RequestOutput
from quire.core.sampling_params import MAX_STOP_STRING_CHARS, MAX_STOP_STRINGS


class Error(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    """JSON path of the value at fault."""
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    error: Error


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0
    """Prompt tokens whose KV came from the prefix cache."""


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Told where the model marks its reasoning."""

    @classmethod
    def count(cls, prompt: int, completion: int, cached: int, reasoning: int | None = None) -> "Usage":
        details = UNSET if reasoning is None else CompletionTokensDetails(reasoning)
        return cls(prompt, completion, prompt + completion, PromptTokensDetails(cached), details)

    @classmethod
    def of(cls, outputs: list[RequestOutput]) -> "Usage":
        """The sum over complete outputs, one for each prompt."""
        return cls.count(
            sum(len(output.prompt_token_ids) for output in outputs),
            sum(len(choice.token_ids) for output in outputs for choice in output.outputs),
            sum(output.num_cached_tokens or 0 for output in outputs),
        )


class AnswerMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """How long one reply waited and took, by vLLM's names."""

    time_to_first_token_ms: float
    """From the request's arrival."""
    generation_time_ms: float
    """From the first token to the last."""
    queue_time_ms: float
    mean_itl_ms: float | UnsetType = UNSET
    """From one token to the next, where there are two."""
    tokens_per_second: float
    """From when the prompt began to be computed to the last token."""


class RequestModel(BaseModel):
    """What a client sends: types are exact (no strings for numbers), and a null counts as absent."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        described = handler.resolve_ref_schema(schema)
        required = described.get("required", ())
        for name, field in described.get("properties", {}).items():
            if name not in required:
                described["properties"][name] = _or_null(field)
        return schema


class QueryModel(BaseModel):
    """Query parameters: values come as text, so ``1`` and ``true`` mean what they say."""

    model_config = ConfigDict(extra="ignore")


class StreamOptions(RequestModel):
    """What a stream says of usage."""

    include_usage: bool = Field(default=False, description="end with a chunk that holds the usage")
    continuous_usage_stats: bool = Field(default=False, description="with include_usage: usage so far on every chunk")

    @property
    def tells_usage_throughout(self) -> bool:
        return self.include_usage and self.continuous_usage_stats


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The same, of values that may also be null."""
    about = ("default", "description", "title")
    inside = {name: value for name, value in schema.items() if name not in about}
    if not inside:
        return schema
    null = {"type": "null"}
    kinds = inside["anyOf"] if set(inside) == {"anyOf"} else [inside]
    outside = {name: value for name, value in schema.items() if name in about}
    return {"anyOf": [*kinds, *([] if null in kinds else [null])], **outside}


TOKEN_IDS_SCHEMA: JsonSchemaValue = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "minItems": 1,
}
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
JsonObject = dict[str, Any]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""What OpenAI's and vLLM's clients may ask for; a template's own words go with ``chat_template_kwargs``."""
Penalty = Annotated[float | None, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_STRING_CHARS)]
StopStrings = StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]
