"""``/generate``: SGLang's own way to ask for text."""

from starlette.requests import Request
from starlette.responses import Response

from quire.server.answers.sglang import GenerateAnswer
from quire.server.body import read_json
from quire.server.disconnect import while_connected
from quire.server.endpoint import Endpoint
from quire.server.generate import Asked, asked_of, sglang_paths
from quire.server.generation import Generation
from quire.server.responses import json_response
from quire.server.schema.sglang import Generated, GenerateRequest
from quire.server.service import Service, request_id_of, service_of
from quire.server.streaming import EventStream


async def generate(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, GenerateRequest)
    request_id = request_id_of(request, body.rid if isinstance(body.rid, str) else None)
    asked, is_list = asked_of(service, body, request_id)
    answer = GenerateAnswer(asked, is_list, body.return_text_in_logprobs, service.llm.tokenizer)
    if body.stream:
        generation = await while_connected(request.receive, _begin(service, body, asked, request_id))
        return EventStream(
            answer.events(generation),
            generation.close,
            keep_alive_s=service.config.sse_keep_alive_s,
            request_id=request_id,
        )

    async def whole() -> Generated | list[Generated]:
        generation = await _begin(service, body, asked, request_id)
        try:
            return answer.whole(await generation.finals())
        finally:
            generation.close()

    return json_response(await while_connected(request.receive, whole()))


async def _begin(service: Service, body: GenerateRequest, asked: list[Asked], request_id: str) -> Generation:
    with sglang_paths(body):
        return await service.generate_all([one.plan for one in asked], request_id)


ENDPOINTS = (
    Endpoint(
        path="/generate",
        methods=("POST", "PUT"),
        handler=generate,
        summary="The continuation of one or many prompts, in SGLang's shape",
        body=GenerateRequest,
        answer=(Generated, list[Generated]),
        chunk=Generated,
    ),
)
