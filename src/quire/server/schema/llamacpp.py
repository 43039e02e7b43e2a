"""llama.cpp's own routes: ``/completion``, ``/infill``, ``/apply-template``, ``/props`` and ``/slots``.

Fields, names and defaults are those of llama.cpp's server. Samplers that are not here are refused unless they are at
the value that turns them off. Hints, which are taken and change nothing: ``id_slot``, ``n_keep``, ``n_discard``,
``n_cache_reuse`` (where a prompt's cache lies and how it is found again is no concern of the client's here),
``t_max_prompt_ms``, ``sse_ping_interval``, ``speculative.*``.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.sampling_params import MAX_N
from quire.server.schema.common import JsonObject, Penalty, QueryModel, ReasoningEffort, RequestModel, StopStrings
from quire.server.schema.messages import MESSAGES_SCHEMA
from quire.server.schema.refused import OTHER_SAMPLERS, Refusals
from quire.server.schema.tools import TOOL_CHOICE_SCHEMA, TOOLS_SCHEMA

_PIECES_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "array",
            "items": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}]},
            "minItems": 1,
        },
        {"type": "object", "properties": {"prompt_string": {"type": "string", "minLength": 1}}},
    ]
}
_PROMPT_SCHEMA = {"anyOf": [*_PIECES_SCHEMA["anyOf"], {"type": "array", "items": _PIECES_SCHEMA, "minItems": 1}]}
_BIAS_SCHEMA = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": ["number", "boolean"]}},
        {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},
    ]
}


def _only(*neutral: object) -> Callable[[Any], bool]:
    return lambda value: value in neutral


REFUSED: Refusals = {
    # other ways to choose tokens
    **OTHER_SAMPLERS,
    "grammar_lazy": _only(False),
    "grammar_triggers": _only([]),
    # other things to tell
    "post_sampling_probs": _only(False),
    "return_progress": _only(False),
    # other inputs
    "lora": _only([]),
    "image_data": _only([]),
    "multimodal_data": _only([]),
}


class LlamaCppOptions(RequestModel):
    """How to go on, wherever from."""

    refused: ClassVar[Refusals] = REFUSED

    model: str | None = None
    stream: bool = False
    n_predict: int | None = Field(default=None, ge=-2, lt=2**31, description="-1, -2: to the end of the context")
    max_tokens: int | None = Field(default=None, ge=-1, lt=2**31, description="n_predict by another name")
    n_cmpl: int | None = Field(default=None, ge=1, le=MAX_N)
    n: int | None = Field(default=None, ge=1, le=MAX_N, description="n_cmpl by another name")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, lt=2**31, description="0 or less: the whole vocabulary")
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, gt=0)
    repeat_last_n: int | None = Field(
        default=None, ge=-1, lt=2**31, description="penalties look at so many tokens; 0: at none, -1: at all; else 64"
    )
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="-1 and 4294967295: a fresh one")
    samplers: list[str] | str | None = Field(
        default=None, description="which are on, by names or letters; they are applied in this server's own order"
    )
    stop: StopStrings | None = None
    ignore_eos: bool = False
    logit_bias: Annotated[Any, WithJsonSchema(_BIAS_SCHEMA)] = None
    grammar: str | None = None
    json_schema: JsonObject | bool | None = None
    n_probs: int = Field(default=0, ge=0, lt=2**31)
    n_indent: int = Field(default=0, ge=0, lt=2**31, description="end before a line that is indented less")
    t_max_predict_ms: int = Field(
        default=0, ge=0, lt=2**31, description="end when so long has passed since the first token, and a line is whole"
    )
    cache_prompt: bool = Field(default=True, description="false: compute everything anew")
    return_tokens: bool = False
    timings_per_token: bool = False
    response_fields: list[str] | None = Field(
        default=None, max_length=64, description="only these fields, given as paths: timings/prompt_n"
    )


class LlamaCppRequest(LlamaCppOptions):
    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)]


class ExtraFile(RequestModel):
    text: str
    filename: str = "tmp"


class InfillRequest(LlamaCppOptions):
    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraFile] = Field(default_factory=list, max_length=1024)
    prompt: str = Field(default="", description="how the middle begins")


class ApplyTemplateRequest(RequestModel):
    """A conversation as chat completions take it; everything about sampling is ignored."""

    refused: ClassVar[Refusals] = {}

    model: str | None = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES_SCHEMA)]
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE_SCHEMA)] = None
    documents: list[JsonObject] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    reasoning_effort: ReasoningEffort | None = None


class SlotsQuery(QueryModel):
    fail_on_no_slot: str | None = Field(default=None, description="answer 503 where no slot is free")


class LlamaCppError(msgspec.Struct, frozen=True):
    code: int
    """The HTTP status."""
    message: str
    type: str
    param: str | None = None
    """JSON path of the value at fault."""
    n_prompt_tokens: int | UnsetType = UNSET
    n_ctx: int | UnsetType = UNSET
    """Of a prompt that is too long."""


class LlamaCppErrorBody(msgspec.Struct, frozen=True):
    error: LlamaCppError


class AppliedTemplate(msgspec.Struct, frozen=True):
    prompt: str


class LlamaCppLogprob(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class LlamaCppToken(LlamaCppLogprob, frozen=True, kw_only=True):
    top_logprobs: list[LlamaCppLogprob]


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    cache_n: int
    """Prompt tokens that were there already."""
    prompt_n: int
    """Prompt tokens that were computed."""
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class LlamaCppChunk(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a stream before its last, which is a LlamaCppCompletion."""

    index: int
    content: str
    tokens: list[int]
    stop: bool = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    timings: Timings | UnsetType = UNSET
    completion_probabilities: list[LlamaCppToken] | UnsetType = UNSET


LlamaCppSelection = JsonObject
"""The fields of a completion that ``response_fields`` named, under these names."""


class LlamaCppCompletion(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    content: str
    tokens: list[int]
    id_slot: int = -1
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: JsonObject
    prompt: str
    has_new_line: bool
    truncated: bool
    """The context was full before the answer was over: it is never shifted here, and the answer ends where it does."""
    stop_type: str
    """eos, word or limit."""
    stopping_word: str
    tokens_cached: int
    """Whose keys and values were kept when it ended: the prompt and all but the last token."""
    timings: Timings
    completion_probabilities: list[LlamaCppToken] | UnsetType = UNSET


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the engine's batch, and what runs in it."""

    id: int
    id_task: int = -1
    n_ctx: int
    speculative: bool = False
    is_processing: bool
    params: JsonObject | UnsetType = UNSET
    next_token: JsonObject | UnsetType = UNSET


class Props(msgspec.Struct, frozen=True, kw_only=True):
    default_generation_settings: JsonObject
    total_slots: int
    model_alias: str
    model_path: str
    modalities: dict[str, bool]
    chat_template: str
    chat_template_caps: dict[str, bool]
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool
