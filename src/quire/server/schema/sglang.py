"""SGLang's ``/generate``: what is asked and what is answered."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, WithJsonSchema

from quire.core.sampling_params import (
    MAX_LOGIT_BIAS,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_N,
    MAX_REPETITION_PENALTY,
)
from quire.server.schema.common import TOKEN_IDS_SCHEMA, JsonObject, Penalty, RequestModel, StopStrings, TokenId
from quire.server.schema.refused import REFUSED_IN_GENERATE, REFUSED_IN_SGLANG_SAMPLING, Refusals
from quire.server.schema.tools import TOOLS_SCHEMA

MAX_NEW_TOKENS = 128
"""What is generated when nothing is said."""
ANY_JSON = "$$ANY$$"
"""As ``json_schema``: any JSON object."""
WEIGHT_VERSION = "default"

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
_Salt = Annotated[str, Field(max_length=1024)]
_Named = Annotated[list[TokenId], Field(max_length=MAX_LOGPROB_TOKEN_IDS)]


class SglangSampling(RequestModel):
    """The settings of one prompt."""

    refused: ClassVar[Refusals] = REFUSED_IN_SGLANG_SAMPLING

    max_new_tokens: int | None = Field(default=None, ge=0, lt=2**31, description="default: 128")
    min_new_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stop: StopStrings | None = None
    stop_token_ids: list[TokenId] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31, description="0 or -1: the whole vocabulary")
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    repetition_penalty: float | None = Field(default=None, ge=1 / MAX_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)
    n: int = Field(default=1, ge=1, le=MAX_N)
    json_schema: str | JsonObject | None = Field(default=None, description="$$ANY$$: any JSON object")
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | JsonObject | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = Field(default=None, description="show what ended the text")
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    sampling_seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)


_TEXT = {"type": "string"}


def _one_or_many(schema: JsonObject) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}, {"type": "null"}]})


class GenerateRequest(RequestModel):
    """One prompt or several; what is given as a list has an entry for each of them."""

    refused: ClassVar[Refusals] = REFUSED_IN_GENERATE

    text: Annotated[Any, _one_or_many(_TEXT)] = None
    input_ids: Annotated[Any, _one_or_many(TOKEN_IDS_SCHEMA)] = None
    sampling_params: Annotated[Any, _one_or_many(SglangSampling.model_json_schema())] = None
    rid: _Id | list[_Id] | None = None
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = Field(default=-1, description="where the prompt's scores begin; -1: nowhere")
    top_logprobs_num: int | list[int] = 0
    token_ids_logprob: _Named | list[_Named | None] | None = Field(
        default=None, description="with return_logprob: those of these tokens too, in each place"
    )
    return_text_in_logprobs: bool = False
    stream: bool = Field(default=False, description="events hold all text so far")
    priority: int = Field(default=0, gt=-(2**31), lt=2**31, description="higher runs first, under the priority policy")
    cache_salt: _Salt | list[_Salt] = ""
    extra_key: _Salt | list[_Salt] = ""


class MatchedStop(msgspec.Struct, frozen=True, tag_field="type", tag="stop"):
    matched: int | str | None
    """The stop id or string, or the end of sequence's id."""


class LengthReached(msgspec.Struct, frozen=True, tag_field="type", tag="length"):
    length: int


class WasAborted(msgspec.Struct, frozen=True, tag_field="type", tag="abort"):
    message: str = "Aborted"


FinishedBy = MatchedStop | LengthReached | WasAborted

Score = tuple[float | None, int, str | None]
"""Log probability, token id, and its text where that was asked for."""


class MetaInfo(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    finish_reason: FinishedBy | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    weight_version: str = WEIGHT_VERSION
    e2e_latency: float | UnsetType = UNSET
    """Seconds, at the end."""
    input_token_logprobs: list[Score] | UnsetType = UNSET
    output_token_logprobs: list[Score] | UnsetType = UNSET
    input_top_logprobs: list[list[Score] | None] | UnsetType = UNSET
    output_top_logprobs: list[list[Score] | None] | UnsetType = UNSET
    input_token_ids_logprobs: list[list[Score] | None] | UnsetType = UNSET
    output_token_ids_logprobs: list[list[Score] | None] | UnsetType = UNSET


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """One continuation."""

    text: str
    output_ids: list[int]
    meta_info: MetaInfo
    index: int | UnsetType = UNSET
    """Which of several, in a stream."""


class SglangModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    model_path: str
    tokenizer_path: str
    is_generation: Literal[True] = True
    preferred_sampling_params: JsonObject | None = None
    weight_version: str = WEIGHT_VERSION
    has_image_understanding: Literal[False] = False
    has_audio_understanding: Literal[False] = False


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    dp_rank: int = 0
    num_running_reqs: int
    num_waiting_reqs: int
    num_total_reqs: int
    num_used_tokens: int
    max_total_num_tokens: int
    token_usage: float
    gen_throughput: float
    cache_hit_rate: float
    max_running_requests: int


class Loads(msgspec.Struct, frozen=True, kw_only=True):
    timestamp: str
    version: str
    dp_rank_count: int = 1
    loads: list[EngineLoad]


class PauseGenerationRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    mode: Literal["abort", "retract", "in_place"] = Field(default="abort", description="the latter two keep requests")


class Said(msgspec.Struct, frozen=True):
    message: str
    status: Literal["ok"] = "ok"


class ParseFunctionCallRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    text: str
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_call_parser: str = Field(default="auto", description="as --tool-call-parser; auto: the served model's")


class ParsedCall(msgspec.Struct, frozen=True):
    tool_index: int
    name: str
    parameters: str
    """A JSON object as text."""


class ParsedFunctionCalls(msgspec.Struct, frozen=True):
    normal_text: str
    calls: list[ParsedCall]


class SeparateReasoningRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    text: str
    reasoning_parser: str = Field(default="auto", description="as --reasoning-parser; auto: the served model's")


class SeparatedReasoning(msgspec.Struct, frozen=True):
    reasoning_text: str
    text: str
