"""``/tokenize`` and ``/detokenize``."""

from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import Field, WithJsonSchema

from quire.server.schema.common import JsonObject, RequestModel, TokenId
from quire.server.schema.messages import MESSAGES_SCHEMA
from quire.server.schema.refused import Refusals
from quire.server.schema.tools import TOOLS_SCHEMA


class TokenizeRequest(RequestModel):
    """A prompt, or a conversation; or with ``content`` a text, as llama.cpp's clients ask for it."""

    refused: ClassVar[Refusals] = {}

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES_SCHEMA)] = None
    add_special_tokens: bool | None = Field(default=None, description="default: true for a prompt, false for messages")
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    documents: list[JsonObject] | None = None
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    chat_template: str | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    reasoning_effort: str | None = None
    content: str | None = None
    add_special: bool = Field(default=False, description="with content: frame it as texts are framed")
    parse_special: bool = Field(default=True, description="with content: false where it holds no special tokens")
    with_pieces: bool = Field(default=False, description="with content: the tokens' texts, or bytes, beside their ids")


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


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
    tokens: list[TokenId]


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """One text, under the names that vLLM's and llama.cpp's clients read."""

    prompt: str
    content: str


TokenizerInfo = dict[str, Any]
"""A tokenizer_config.json, as far as it matters to someone who renders conversations and knows special tokens."""
