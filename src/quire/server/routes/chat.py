"""``POST /v1/chat/completions``."""

import time

from starlette.requests import Request
from starlette.responses import Response

from quire.engine.assembler import OutputKind
from quire.server.answers.chat import ChatAnswer
from quire.server.body import read_json
from quire.server.disconnect import while_connected
from quire.server.endpoint import Endpoint
from quire.server.generation import Generation
from quire.server.rendering import render
from quire.server.responses import json_response
from quire.server.sampling import chat_params, chat_paths
from quire.server.schema.chat import ChatChunk, ChatCompletion, ChatCompletionRequest
from quire.server.schema.messages import Message, messages_of
from quire.server.service import Plan, Service, request_id_of, service_of
from quire.server.streaming import EventStream


async def chat_completions(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, ChatCompletionRequest)
    request_id = request_id_of(request, body.request_id)
    heading = {
        "id": f"chatcmpl-{request_id}",
        "created": int(time.time()),
        "model": service.model(body.model),
        "fingerprint": service.fingerprint,
    }
    messages = messages_of(body.messages)
    role = service.config.response_role
    echoed = messages[-1]["content"] if body.echo and messages[-1]["role"] == role else ""
    answer = ChatAnswer(body, heading, service.llm.tokenizer, role, echoed)
    if body.stream:
        generation = await while_connected(request.receive, _begin(service, body, messages, request_id))
        return EventStream(
            answer.chunks(generation),
            generation.close,
            keep_alive_s=service.config.sse_keep_alive_s,
            request_id=request_id,
        )

    async def whole() -> ChatCompletion:
        generation = await _begin(service, body, messages, request_id)
        try:
            (output,) = await generation.finals()
        finally:
            generation.close()
        return answer.whole(output)

    return json_response(await while_connected(request.receive, whole()))


async def _begin(service: Service, body: ChatCompletionRequest, messages: list[Message], request_id: str) -> Generation:
    params = chat_params(body, service.llm.default_params)
    prompt = await render(service.llm, messages, body)
    plan = Plan(
        prompts=[prompt],
        params=params,
        kind=OutputKind.DELTA if body.stream else OutputKind.FINAL,
        request_id=request_id,
        add_special_tokens=bool(body.add_special_tokens),
        priority=body.priority,
        cache_salt=body.cache_salt,
    )
    with chat_paths(body):
        return await service.generate(plan)


ENDPOINTS = (
    Endpoint(
        path="/v1/chat/completions",
        methods=("POST",),
        handler=chat_completions,
        summary="The next message of a conversation",
        body=ChatCompletionRequest,
        answer=ChatCompletion,
        chunk=ChatChunk,
        errors=(404,),
    ),
)
