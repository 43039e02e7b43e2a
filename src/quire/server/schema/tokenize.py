"""``/tokenize`` and ``/detokenize``."""

from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import Field, WithJsonSchema

from quire.server.schema.common import JsonObject, ReasoningEffort, RequestModel, TokenId
from quire.server.schema.messages import MESSAGES_SCHEMA
from quire.server.schema.refused import Refusals
from quire.server.schema.tools import TOOL_CHOICE_SCHEMA, TOOLS_SCHEMA

MAX_TEXTS = 1024


class TokenizeRequest(RequestModel):
    """A prompt, or a conversation; or with ``content`` a text, as llama.cpp's clients ask for it."""

    refused: ClassVar[Refusals] = {}

    model: str | None = None
    prompt: str | Annotated[list[str], Field(max_length=MAX_TEXTS)] | None = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES_SCHEMA)] = None
    add_special_tokens: bool | None = Field(default=None, description="default: true for a prompt, false for messages")
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    documents: list[JsonObject] | None = None
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE_SCHEMA)] = None
    chat_template: str | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    reasoning_effort: ReasoningEffort | None = None
    content: str | None = None
    add_special: bool = Field(default=False, description="with content: frame it as texts are framed")
    parse_special: bool = Field(default=True, description="with content: false where it holds no special tokens")
    with_pieces: bool = Field(default=False, description="with content: the tokens' texts, or bytes, beside their ids")


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TokenizedPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a list of prompts, a list of each."""

    count: list[int]
    max_model_len: int
    tokens: list[list[int]]
    token_strs: list[list[str]] | None = None


class TokenPiece(msgspec.Struct, frozen=True):
    id: int
    piece: str | list[int]
    """Its text, or its bytes where they are no text by themselves."""


class ContentTokens(msgspec.Struct, frozen=True):
    """llama.cpp's answer."""

    tokens: list[int | TokenPiece]


class DetokenizeRequest(RequestModel):
    refused: ClassVar[Refusals] = {}

    model: str | None = None
    tokens: list[TokenId] | Annotated[list[list[TokenId]], Field(max_length=MAX_TEXTS)]


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """One text, under the names that vLLM's, llama.cpp's and SGLang's clients read; or a list of texts."""

    prompt: str | list[str]
    content: str | list[str]
    text: str | list[str]


TokenizerInfo = dict[str, Any]
"""A tokenizer_config.json, as far as it matters to someone who renders conversations and knows special tokens."""
