"""``/generate``: SGLang's own way to ask for text."""

from starlette.requests import Request
from starlette.responses import Response

from quire.server.answers.sglang import GenerateAnswer
from quire.server.body import read_json
from quire.server.delivery import deliver
from quire.server.endpoint import Endpoint
from quire.server.generate import asked_of, sglang_paths
from quire.server.generation import Generation
from quire.server.schema.sglang import Generated, GenerateRequest
from quire.server.service import request_id_of, service_of


async def generate(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, GenerateRequest)
    request_id = request_id_of(request, body.rid if isinstance(body.rid, str) else None)
    asked, is_list = asked_of(service, body, request_id)
    answer = GenerateAnswer(asked, is_list, body.return_text_in_logprobs, service.llm.tokenizer)

    async def begin() -> Generation:
        with sglang_paths(body):
            return await service.generate_all([one.plan for one in asked], request_id)

    async def whole(generation: Generation) -> Generated | list[Generated]:
        return answer.whole(await generation.finals())

    return await deliver(
        request, begin, whole=whole, events=answer.events, is_streamed=body.stream, request_id=request_id
    )


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
