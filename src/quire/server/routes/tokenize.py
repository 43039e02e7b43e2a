"""``POST /tokenize`` and ``/detokenize``, ``GET /tokenizer_info``."""

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.body import read_json
from quire.server.endpoint import Endpoint
from quire.server.rendering import Conversation, render
from quire.server.responses import json_response
from quire.server.schema.messages import messages_of
from quire.server.schema.tokenize import (
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
    TokenPiece,
)
from quire.server.schema.tools import tools_of
from quire.server.service import Service, service_of


async def tokenize(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, TokenizeRequest)
    service.model(body.model)
    if body.content is not None:
        return json_response(await _content_tokens(service, body, body.content))
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Exactly one of prompt and messages must be given.", param="$.prompt")
    llm = service.llm
    if body.prompt is not None:
        text, adds_special = body.prompt, body.add_special_tokens is not False
    else:
        conversation = Conversation(
            messages=messages_of(body.messages),
            tools=tools_of(body.tools),
            documents=body.documents,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            chat_template=body.chat_template,
            chat_template_kwargs=body.chat_template_kwargs,
            reasoning_effort=body.reasoning_effort,
        )
        text, adds_special = await render(service, conversation), bool(body.add_special_tokens)
    tokens = await llm.run_blocking(llm.tokenizer.encode, text, adds_special)
    names = [llm.tokenizer.id_to_token(token) or "" for token in tokens] if body.return_token_strs else None
    return json_response(
        TokenizeResponse(count=len(tokens), max_model_len=llm.info.max_model_len, tokens=list(tokens), token_strs=names)
    )


async def _content_tokens(service: Service, body: TokenizeRequest, content: str) -> ContentTokens:
    if body.prompt is not None or body.messages is not None:
        raise InvalidRequest("content is given beside prompt or messages: give exactly one of them.", param="$.content")
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
    for i, token in enumerate(body.tokens):
        if token >= llm.info.vocab_size:
            raise InvalidRequest(
                f"$.tokens[{i}] is {token}, which is out of vocabulary: ids go from 0 to {llm.info.vocab_size - 1}.",
                param=f"$.tokens[{i}]",
            )
    text = await llm.run_blocking(llm.tokenizer.decode, body.tokens, False)
    return json_response(DetokenizeResponse(text, text))


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
    Endpoint(
        path="/tokenize",
        methods=("POST",),
        handler=tokenize,
        summary="The tokens of a prompt or a conversation",
        body=TokenizeRequest,
        answer=(TokenizeResponse, ContentTokens),
        errors=(404,),
    ),
    Endpoint(
        path="/detokenize",
        methods=("POST",),
        handler=detokenize,
        summary="The text of tokens",
        body=DetokenizeRequest,
        answer=DetokenizeResponse,
        errors=(404,),
    ),
    Endpoint(
        path="/tokenizer_info",
        handler=tokenizer_info,
        summary="Special tokens and chat template",
        answer=TokenizerInfo,
    ),
)
