"""``POST /tokenize`` and ``/detokenize``, ``GET /tokenizer_info``."""

from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.body import read_json
from quire.server.endpoint import Endpoint
from quire.server.rendering import render
from quire.server.responses import json_response
from quire.server.routes.chat import conversation_of
from quire.server.schema.tokenize import (
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizedPrompts,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
    TokenPiece,
)
from quire.server.service import Service, service_of

_GOES_WITH = {
    "prompt": {"add_special_tokens", "return_token_strs"},
    "messages": {
        *("add_special_tokens", "return_token_strs", "add_generation_prompt", "continue_final_message", "documents"),
        *("tools", "tool_choice", "chat_template", "chat_template_kwargs", "reasoning_effort"),
    },
    "content": {"add_special", "parse_special", "with_pieces"},
}
"""What may be tokenized, and the fields that say how."""


async def tokenize(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, TokenizeRequest)
    service.model(body.model)
    _check_fields(body)
    if body.content is not None:
        return json_response(await _content_tokens(service, body, body.content))
    llm = service.llm
    if body.prompt is not None:
        asked, adds_special = body.prompt, body.add_special_tokens is not False
    else:
        asked, adds_special = await render(service, conversation_of(body)), bool(body.add_special_tokens)
    texts = [asked] if isinstance(asked, str) else asked

    def encode() -> TokenizeResponse | TokenizedPrompts:
        context = llm.info.max_model_len
        tokens = [list(llm.tokenizer.encode(text, adds_special)) for text in texts]
        shown = None
        if body.return_token_strs:
            shown = [[llm.tokenizer.id_to_token(token) or "" for token in one] for one in tokens]
        if not isinstance(asked, str):
            counts = [len(one) for one in tokens]
            return TokenizedPrompts(count=counts, max_model_len=context, tokens=tokens, token_strs=shown)
        return TokenizeResponse(
            count=len(tokens[0]),
            max_model_len=context,
            tokens=tokens[0],
            token_strs=None if shown is None else shown[0],
        )

    return json_response(await llm.run_blocking(encode))


def _check_fields(body: TokenizeRequest) -> None:
    """Raises InvalidRequest unless there is one thing to tokenize, and no field that belongs to another."""
    given = [name for name, field in TokenizeRequest.model_fields.items() if _is_given(body, name, field)]
    asked = [name for name in given if name in _GOES_WITH]
    if len(asked) != 1:
        raise InvalidRequest(
            f"Exactly one of {', '.join(_GOES_WITH)} must be given, not {' and '.join(asked) or 'none'}.",
            param=f"$.{asked[-1] if asked else 'prompt'}",
        )
    for name in given:
        if name not in {"model", *asked, *_GOES_WITH[asked[0]]}:
            owners = " or ".join(owner for owner, fields in _GOES_WITH.items() if name in fields)
            raise InvalidRequest(f"{name} says nothing of {asked[0]}: it goes with {owners}.", param=f"$.{name}")


def _is_given(body: TokenizeRequest, name: str, field: FieldInfo) -> bool:
    return bool(getattr(body, name) != field.get_default(call_default_factory=True))


async def _content_tokens(service: Service, body: TokenizeRequest, content: str) -> ContentTokens:
    llm = service.llm
    tokenizer = llm.tokenizer

    def encode() -> ContentTokens:
        ids = tokenizer.encode(content, False)
        if not body.parse_special and (special := next((i for i in ids if tokenizer.is_special(i)), None)) is not None:
            raise Unsupported(
                f"parse_special is false and the content has the special token {tokenizer.token_text(special)!r}: it "
                "cannot be read as plain text here.",
                param="$.parse_special",
            )
        if body.add_special:
            ids = tokenizer.encode(content, True)
        if not body.with_pieces:
            return ContentTokens([*ids])
        return ContentTokens([TokenPiece(i, _piece(tokenizer.token_bytes(i))) for i in ids])

    return await llm.run_blocking(encode)


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, DetokenizeRequest)
    service.model(body.model)
    llm = service.llm
    is_many = bool(body.tokens) and isinstance(body.tokens[0], list)
    lists: list[Any] = body.tokens if is_many else [body.tokens]

    def decode() -> list[str]:
        for i, ids in enumerate(lists):
            _check_ids(ids, f"$.tokens[{i}]" if is_many else "$.tokens", llm.info.vocab_size)
        return [llm.tokenizer.decode(ids, False) for ids in lists]

    texts = await llm.run_blocking(decode)
    said = texts if is_many else texts[0]
    return json_response(DetokenizeResponse(said, said, said))


def _check_ids(ids: Sequence[int], path: str, vocab_size: int) -> None:
    for i, token in enumerate(ids):
        if token >= vocab_size:
            raise InvalidRequest(
                f"{path}[{i}] is {token}, which is out of vocabulary: ids go from 0 to {vocab_size - 1}.",
                param=f"{path}[{i}]",
            )


async def tokenizer_info(request: Request) -> Response:
    llm = service_of(request).llm
    info: TokenizerInfo = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": llm.info.max_model_len,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token")),
        **llm.tokenizer.roles,
        "added_tokens_decoder": llm.tokenizer.added_tokens(),
    }
    if llm.chat_template is not None:
        info["chat_template"] = llm.chat_template.source
    return json_response(info)


ENDPOINTS = (
    *(
        Endpoint(
            path=path,
            methods=("POST",),
            handler=tokenize,
            summary="The tokens of a prompt or a conversation",
            body=TokenizeRequest,
            answer=(TokenizeResponse, TokenizedPrompts, ContentTokens),
            errors=(404,),
        )
        for path in ("/tokenize", "/v1/tokenize")
    ),
    *(
        Endpoint(
            path=path,
            methods=("POST",),
            handler=detokenize,
            summary="The text of tokens",
            body=DetokenizeRequest,
            answer=DetokenizeResponse,
            errors=(404,),
        )
        for path in ("/detokenize", "/v1/detokenize")
    ),
    Endpoint(
        path="/tokenizer_info",
        handler=tokenizer_info,
        summary="Special tokens and chat template",
        answer=TokenizerInfo,
    ),
)
