"""Ollama's ``POST /api/chat`` and ``/api/generate``."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest, Unsupported
from quire.server.answers.ollama import OllamaShaper, chat_record, generate_record
from quire.server.answers.ollama_models import check_name
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.exchange import Exchange, begin
from quire.server.faces import OLLAMA
from quire.server.foreign_sampling import OLLAMA_PATHS, keep_alive_s, ollama_params
from quire.server.rendering import Conversation, effort_of
from quire.server.responses import json_response
from quire.server.sampling import renamed
from quire.server.schema.faults import bad
from quire.server.schema.ollama import (
    OllamaChatAnswer,
    OllamaChatRequest,
    OllamaGenerateAnswer,
    OllamaGenerateRequest,
    OllamaRequest,
)
from quire.server.schema.ollama_messages import conversation_of
from quire.server.schema.tools import choice_of, tools_of
from quire.server.service import Service, request_id_of, service_of
from quire.server.turn import Turn
from quire.text.fim import FillInMiddle


async def chat(request: Request) -> Response:
    begun_s = time.monotonic()
    service = service_of(request)
    body = await read_json(request, OllamaChatRequest, of_any_type=True)
    shaper = _shaper(service, body, begun_s, record=chat_record)
    messages, is_continued = conversation_of(body.messages)
    choice = choice_of(body.tool_choice)
    conversation = Conversation(
        messages=messages,
        tools=choice.shown(tools_of(body.tools)),
        continue_final_message=is_continued,
        **_thinking(service, body),
    )
    turn = _turn(request, service, body, conversation=conversation, tool_choice=choice.mode, forced_tool=choice.forced)
    return await _answer(request, service, turn, shaper, "$.messages") if messages else _nothing(shaper, body)


async def generate(request: Request) -> Response:
    begun_s = time.monotonic()
    service = service_of(request)
    body = await read_json(request, OllamaGenerateRequest, of_any_type=True)
    shaper = _shaper(service, body, begun_s, record=generate_record, returns_context=not body.raw and not body.suffix)
    if body.raw and (body.system or body.context):
        field = "system" if body.system else "context"
        raise InvalidRequest(
            f"$.{field} cannot be combined with raw, which takes the prompt as it is: leave one of them out.",
            param=f"$.{field}",
        )
    if body.suffix:
        turn = await _around_the_gap(request, service, body)
    elif body.raw:
        turn = _turn(request, service, body, prompt=body.prompt, add_special_tokens=True)
    else:
        messages = [{"role": "system", "content": body.system}] if body.system else []
        messages.append({"role": "user", "content": body.prompt})
        conversation = Conversation(messages=messages, **_thinking(service, body))
        turn = _turn(request, service, body, conversation=conversation, context=_context(service, body))
    is_asked = body.prompt or body.suffix
    return await _answer(request, service, turn, shaper, "$.prompt") if is_asked else _nothing(shaper, body)


def _shaper(service: Service, body: OllamaRequest, begun_s: float, **settings: Any) -> OllamaShaper:
    check_name(service, body.model)
    keep_alive_s(body.keep_alive)
    return OllamaShaper(
        model=body.model, begun_s=begun_s, tokenizer=service.llm.tokenizer, num_top=body.top_logprobs, **settings
    )


def _nothing(shaper: OllamaShaper, body: OllamaRequest) -> Response:
    """The model is there. One that is to be let go stays all the same, for others: ``/api/ps`` says so."""
    return json_response(shaper.nothing("unload" if keep_alive_s(body.keep_alive) == 0 else "load"))


def _thinking(service: Service, body: OllamaRequest) -> dict[str, Any]:
    think = body.think
    if think and service.dialects.reasoning is None:
        raise Unsupported(
            f"$.think is {think!r}, but {body.model!r} does not support thinking: leave it out, or say false.",
            param="$.think",
        )
    effort = effort_of(think) if isinstance(think, str) else None
    return {"is_thinking": None if think is None else bool(think), "reasoning_effort": effort}


def _context(service: Service, body: OllamaGenerateRequest) -> list[int]:
    """Raises InvalidRequest for ids that are not the model's: behind them, the prompt's would be thought at fault."""
    ids, num_ids = body.context or [], service.llm.info.vocab_size
    for i, token in enumerate(ids):
        if token >= num_ids:
            raise bad(f"$.context[{i}]", token, f"must be a token id of the model, which go from 0 to {num_ids - 1}")
    return ids


async def _around_the_gap(request: Request, service: Service, body: OllamaGenerateRequest) -> Turn:
    try:
        fim = FillInMiddle.of(service.llm.tokenizer)
    except Unsupported as error:
        error.param = "$.suffix"
        raise
    prompt = await service.llm.run_blocking(fim.prompt, body.prompt, body.suffix)
    return _turn(request, service, body, fim.end_ids, prompt=prompt)


def _turn(
    request: Request,
    service: Service,
    body: OllamaRequest,
    stop_token_ids: tuple[int, ...] = (),
    *,
    conversation: Conversation | None = None,
    **settings: Any,
) -> Turn:
    with renamed(OLLAMA_PATHS):
        params = ollama_params(body, service.llm.default_params, service.llm.info.max_model_len)
    return Turn(
        conversation=conversation or Conversation(messages=[]),
        params=params.replace(stop_token_ids=stop_token_ids),
        request_id=request_id_of(request),
        is_streamed=body.stream,
        **settings,
    )


async def _answer(request: Request, service: Service, turn: Turn, shaper: OllamaShaper, asked: str) -> Response:
    """``asked``: the path of what the prompt is made of."""
    return await deliver(
        request,
        lambda: _begin(service, turn, asked),
        whole=shaper.whole,
        events=shaper.lines,
        is_streamed=turn.is_streamed,
        request_id=turn.request_id,
        face=OLLAMA,
    )


async def _begin(service: Service, turn: Turn, asked: str) -> Exchange:
    with renamed({**OLLAMA_PATHS, "$.prompt": asked, "$.messages": asked}):
        return await begin(service, turn)


ENDPOINTS = (
    Endpoint(
        path="/api/chat",
        methods=("POST",),
        handler=chat,
        summary="The next message of a conversation, as Ollama's API has it",
        body=OllamaChatRequest,
        answer=OllamaChatAnswer,
        chunk=OllamaChatAnswer,
        errors=(404,),
    ),
    Endpoint(
        path="/api/generate",
        methods=("POST",),
        handler=generate,
        summary="The answer to a prompt, as Ollama's API has it",
        body=OllamaGenerateRequest,
        answer=OllamaGenerateAnswer,
        chunk=OllamaGenerateAnswer,
        errors=(404,),
    ),
)
