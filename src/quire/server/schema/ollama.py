"""Ollama's API: what is asked and what is answered.

Durations are nanoseconds. Fields without a value are left out of an answer, as Ollama leaves them out.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from quire.server.schema.chat import TokenLogprob
from quire.server.schema.common import JsonObject, Penalty, RequestModel, StopStrings, TokenId
from quire.server.schema.refused import REFUSED_BY_OLLAMA, Refusals
from quire.server.schema.tools import TOOL_CHOICE_SCHEMA, TOOLS_SCHEMA


def _whole(value: Any) -> Any:
    """Some clients know one kind of number only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Integer = Annotated[int, BeforeValidator(_whole)]

_IMAGES_SCHEMA = {"anyOf": [{"type": "array", "maxItems": 0}, {"type": "null"}]}
_MESSAGES_SCHEMA = {
    "anyOf": [
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "role": {"enum": ["system", "user", "assistant", "tool"]},
                    "content": {"type": "string"},
                    "thinking": {"type": "string"},
                    "images": _IMAGES_SCHEMA,
                    "tool_name": {"type": "string"},
                },
                "required": ["role", "content"],
            },
        },
        {"type": "null"},
    ]
}


class Options(RequestModel):
    """Those that are honoured. What says how to load or compute a model is a hint; the rest is refused by name."""

    model_config = ConfigDict(extra="allow")

    num_predict: Annotated[_Integer | None, Field(ge=-2, lt=2**31)] = Field(
        default=None, description="most tokens of the answer; -1, -2: up to the end of the context"
    )
    num_ctx: Annotated[_Integer | None, Field(ge=1, lt=2**31)] = Field(
        default=None, description="not more than the server's own"
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: Annotated[_Integer | None, Field(ge=-1, lt=2**31)] = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, gt=0)
    repeat_last_n: Annotated[_Integer | None, Field(ge=-1, lt=2**31)] = Field(
        default=None, description="how many tokens penalties look at: 64 if not said; -1: all; 0: no penalties"
    )
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    seed: Annotated[_Integer | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: StopStrings | None = None


class OllamaRequest(RequestModel):
    refused: ClassVar[Refusals] = REFUSED_BY_OLLAMA

    model: str = Field(description="a served model's name, with or without :latest")
    stream: bool = True
    format: Literal["", "json"] | JsonObject | None = Field(default=None, description="json, or a JSON schema")
    options: Options = Options()
    keep_alive: float | str | None = Field(default=None, description="the model stays loaded, whatever this says")
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)


class OllamaChatRequest(OllamaRequest):
    """The next message of a conversation; without messages, nothing but a word that the model is there."""

    messages: Annotated[Any, WithJsonSchema(_MESSAGES_SCHEMA)] = None
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE_SCHEMA)] = None


class OllamaGenerateRequest(OllamaRequest):
    """The answer to a prompt; without a prompt, nothing but a word that the model is there."""

    prompt: str = ""
    suffix: str = Field(default="", description="what follows the answer: fill in the middle")
    system: str = ""
    template: Annotated[str, WithJsonSchema({"const": ""})] = ""
    raw: bool = Field(default=False, description="the prompt as it is, without the model's template")
    context: list[TokenId] | None = Field(default=None, description="of an earlier answer")
    images: Annotated[list[str] | None, WithJsonSchema(_IMAGES_SCHEMA)] = None


class OllamaShowRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    model: str = ""
    name: str = Field(default="", description="the older name of model")
    verbose: bool = False


class OllamaPullRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    model: str = ""
    name: str = Field(default="", description="the older name of model")
    stream: bool = True
    insecure: bool = False


class OllamaChosenLogprob(TokenLogprob, frozen=True):
    top_logprobs: list[TokenLogprob] | UnsetType = UNSET


class OllamaFunction(msgspec.Struct, frozen=True):
    index: int
    name: str
    arguments: JsonObject


class OllamaToolCall(msgspec.Struct, frozen=True):
    id: str
    function: OllamaFunction


class OllamaMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaToolCall] | UnsetType = UNSET


class OllamaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What both ways of asking are answered with. Counts and durations come with the end.

    ``load_duration`` is the time until the engine began with the request: nothing is loaded any more.
    """

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[OllamaChosenLogprob] | UnsetType = UNSET


class OllamaChatAnswer(OllamaAnswer, frozen=True, kw_only=True):
    message: OllamaMessage


class OllamaGenerateAnswer(OllamaAnswer, frozen=True, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


class OllamaDetails(msgspec.Struct, frozen=True, kw_only=True):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    """Names the model, not its bytes."""
    details: OllamaDetails


class OllamaModels(msgspec.Struct, frozen=True):
    models: list[OllamaModel]


class OllamaProcess(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int


class OllamaProcesses(msgspec.Struct, frozen=True):
    models: list[OllamaProcess]


class OllamaShown(msgspec.Struct, frozen=True, kw_only=True):
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: Mapping[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaStatus(msgspec.Struct, frozen=True):
    status: str


class OllamaVersion(msgspec.Struct, frozen=True):
    version: str


class OllamaError(msgspec.Struct, frozen=True):
    error: str
