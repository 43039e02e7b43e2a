"""``POST /v1/chat/completions``."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest
from quire.server.answers.chat import ChatAnswer
from quire.server.beams import beams_of
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.exchange import Exchange, begin
from quire.server.rendering import Conversation
from quire.server.sampling import chat_params, chat_paths
from quire.server.schema.chat import ChatChunk, ChatCompletion, ChatCompletionRequest
from quire.server.schema.faults import bad
from quire.server.schema.llamacpp import ApplyTemplateRequest
from quire.server.schema.messages import messages_of
from quire.server.schema.shapes import shape_of
from quire.server.schema.tokenize import TokenizeRequest
from quire.server.schema.tools import choice_of, tools_of
from quire.server.service import Service, request_id_of, service_of
from quire.server.turn import Turn


async def chat_completions(request: Request) -> Response:
    service = service_of(request)
    body = service.with_defaults(await read_json(request, ChatCompletionRequest))
    request_id = request_id_of(request, body.request_id)
    heading = heading_of(service, body, request_id)
    turn = turn_of(service, body, request_id)
    answer = answer_of(service, body, heading, turn)
    return await deliver(
        request,
        lambda: begin_chat(service, body, turn),
        whole=answer.whole,
        events=answer.chunks,
        is_streamed=body.stream,
        request_id=request_id,
    )


def heading_of(service: Service, body: ChatCompletionRequest, request_id: str) -> dict[str, Any]:
    """What every object of an answer says. Raises ModelNotFound."""
    return {
        "id": f"chatcmpl-{request_id}",
        "created": int(time.time()),
        "model": service.model(body.model),
        "fingerprint": service.fingerprint,
    }


def answer_of(service: Service, body: ChatCompletionRequest, heading: dict[str, Any], turn: Turn) -> ChatAnswer:
    """What shapes the answer to a turn."""
    last = turn.conversation.messages[-1]
    role = service.config.response_role
    echoed = last["content"] if body.echo and last["role"] == role else ""
    tells_metrics = service.config.enable_per_request_metrics
    return ChatAnswer(body, heading, service.llm.tokenizer, role, echoed, tells_metrics)


def turn_of(service: Service, body: ChatCompletionRequest, request_id: str) -> Turn:
    """Raises InvalidRequest or Unsupported."""
    choice = choice_of(body.tool_choice)
    shape = shape_of(body)
    if shape is not None and choice.mode == "required" and not shape.path.startswith("$.response_format"):
        raise InvalidRequest(
            f"{shape.path} and a tool_choice that requires a call are both given, and an answer can be one of them "
            "only: leave one of them out.",
            param=shape.path,
        )
    if body.tools is None and body.tool_choice is not None and choice.mode == "auto":
        raise bad("$.tool_choice", body.tool_choice, "is only allowed where tools are given")
    return Turn(
        conversation=conversation_of(body),
        params=chat_params(body, service.llm.default_params),
        request_id=request_id,
        is_streamed=body.stream,
        tool_choice=choice.mode,
        forced_tool=choice.forced,
        has_parallel_calls=body.parallel_tool_calls,
        separates_reasoning=body.separate_reasoning and body.reasoning_format != "none",
        add_special_tokens=bool(body.add_special_tokens),
        beams=beams_of(body),
        priority=body.priority,
        cache_salt=body.cache_salt,
    )


def conversation_of(body: ChatCompletionRequest | TokenizeRequest | ApplyTemplateRequest) -> Conversation:
    """What a template makes a prompt of; raises InvalidRequest or Unsupported."""
    return Conversation(
        messages=messages_of(body.messages),
        tools=choice_of(body.tool_choice).shown(tools_of(body.tools)),
        documents=body.documents,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        chat_template_kwargs=body.chat_template_kwargs,
        reasoning_effort=body.reasoning_effort,
    )


async def begin_chat(service: Service, body: ChatCompletionRequest, turn: Turn) -> Exchange:
    """Raises what the template or the engine's door refuses, by the request's own names."""
    with chat_paths(body):
        return await begin(service, turn)


CHAT_COMPLETIONS = Endpoint(
    path="/v1/chat/completions",
    methods=("POST",),
    handler=chat_completions,
    summary="The next message of a conversation",
    body=ChatCompletionRequest,
    answer=ChatCompletion,
    chunk=ChatChunk,
    errors=(404,),
)
ENDPOINTS = (CHAT_COMPLETIONS,)
