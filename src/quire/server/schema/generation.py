"""The fields that every way of asking for text has in common.

Names, defaults and ranges follow OpenAI's API and vLLM's extensions of it. Ranges are written here for the published
schema; SamplingParams checks them again, with everything that depends on several fields.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quire.core.sampling_params import (
    MAX_LENGTH_PENALTY,
    MAX_LOGIT_BIAS,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_N,
    MAX_PATTERN_SIZE,
    MAX_REPETITION_PENALTY,
)
from quire.core.structured_outputs import SHAPES
from quire.server.schema.common import JsonObject, Penalty, RequestModel, StopStrings, StreamOptions, TokenId
from quire.server.schema.refused import REFUSED_ANYWHERE, Refusals


class RepetitionRequest(RequestModel):
    """End with finish_reason ``repetition`` once a pattern of tokens stands there so many times in a row."""

    max_pattern_size: int = Field(default=0, ge=0, le=MAX_PATTERN_SIZE, description="in tokens; 0: off")
    min_pattern_size: int = Field(default=0, ge=0, le=MAX_PATTERN_SIZE, description="in tokens; 0 means 1")
    min_count: int = Field(default=0, ge=0, lt=2**31, description="at least 2, unless it is off")


class SamplingRequest(RequestModel):
    """How one reply's tokens are chosen, and what goes with every request for text."""

    refused: ClassVar[Refusals] = REFUSED_ANYWHERE

    model: str | None = Field(default=None, description="a served model's name; absent means the first")
    stream: bool = False

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31, description="0 or -1: the whole vocabulary")
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: float | None = Field(default=None, ge=1 / MAX_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopStrings | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    repetition_detection: RepetitionRequest | None = None

    priority: int = Field(default=0, ge=-(2**31), lt=2**31, description="lower runs first, under the priority policy")
    cache_salt: str = Field(default="", max_length=1024, description="share cached prefixes only within equal salts")
    request_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    session_id: str | None = Field(default=None, description="a hint: prefixes are found whoever asks")

    user: str | None = None
    service_tier: str | None = Field(default=None, description="there is one: answered with default")


class GenerationRequest(SamplingRequest):
    """What chat and completions have in common beyond that."""

    stream_options: StreamOptions = Field(default=StreamOptions(), description="only where stream is true")

    n: int = Field(default=1, ge=1, le=MAX_N)
    best_of: int | None = Field(default=None, ge=1, le=MAX_N, description="make so many, return the n likeliest")
    use_beam_search: bool = Field(default=False, description="the n best of best_of, or n, beams; not in a stream")
    length_penalty: float = Field(
        default=1.0,
        ge=-MAX_LENGTH_PENALTY,
        le=MAX_LENGTH_PENALTY,
        description="of beams: a score is over the length to this power",
    )
    response_format: JsonObject | None = Field(
        default=None, description="text, json_object, json_schema (strict: all of it, or it is refused), structural_tag"
    )
    structured_outputs: JsonObject | None = Field(default=None, description=f"one of {', '.join(SHAPES)}, and options")
    guided_json: JsonObject | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: JsonObject | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    grammar: str | None = None

    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    n_predict: int | None = Field(
        default=None, ge=-2, lt=2**31, description="max_tokens by llama.cpp's name; -1, -2: to the end of the context"
    )
    repeat_penalty: float | None = Field(
        default=None,
        ge=1 / MAX_REPETITION_PENALTY,
        le=MAX_REPETITION_PENALTY,
        description="repetition_penalty by llama.cpp's name",
    )
    repeat_last_n: int | None = Field(
        default=None,
        ge=-1,
        lt=2**31,
        description="penalties look at so many last tokens; 0: at none, -1: at all",
    )
    prompt_logprobs: int | None = Field(default=None, ge=-1, lt=2**31)
    logprob_token_ids: Annotated[list[TokenId], Field(max_length=MAX_LOGPROB_TOKEN_IDS)] | None = Field(
        default=None, description="with logprobs: those of these tokens, in the place of the likeliest"
    )
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=2**31)
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None

    echo: bool = False
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    return_prompt_text: bool = False
    stream_interval: int | None = Field(default=None, ge=1, description="a hint: a stream says what is new at once")

    metadata: JsonObject | None = None
    store: bool | None = None
