"""``POST /v1/completions``."""

import time

from starlette.requests import Request
from starlette.responses import Response

from quire.core.errors import InvalidRequest
from quire.core.sampling_params import MAX_N
from quire.engine.assembler import OutputKind
from quire.server.answers.completion import CompletionAnswer
from quire.server.body import read_json
from quire.server.disconnect import while_connected
from quire.server.endpoint import Endpoint
from quire.server.responses import json_response
from quire.server.sampling import completion_params
from quire.server.schema.completion import Completion, CompletionChunk, CompletionRequest, Prompt, prompts_of
from quire.server.service import Plan, request_id_of, service_of
from quire.server.streaming import EventStream


async def completions(request: Request) -> Response:
    service = service_of(request)
    body = await read_json(request, CompletionRequest)
    request_id = request_id_of(request, body.request_id)
    heading = {
        "id": f"cmpl-{request_id}",
        "created": int(time.time()),
        "model": service.model(body.model),
        "fingerprint": service.fingerprint,
    }
    prompts = prompts_of(body.prompt)
    _check_count(prompts, body.n, service.config.max_prompts)
    answer = CompletionAnswer(body, heading, service.llm.tokenizer, prompts)
    plan = Plan(
        prompts=prompts,
        params=completion_params(body, service.llm.default_params),
        kind=OutputKind.DELTA if body.stream else OutputKind.FINAL,
        request_id=request_id,
        add_special_tokens=body.add_special_tokens is not False,
        priority=body.priority,
        cache_salt=body.cache_salt,
    )
    if body.stream:
        generation = await while_connected(request.receive, service.generate(plan))
        return EventStream(
            answer.chunks(generation),
            generation.close,
            keep_alive_s=service.config.sse_keep_alive_s,
            request_id=request_id,
        )

    async def whole() -> Completion:
        generation = await service.generate(plan)
        try:
            outputs = await generation.finals()
        finally:
            generation.close()
        return answer.whole(outputs)

    return json_response(await while_connected(request.receive, whole()))


def _check_count(prompts: list[Prompt], n: int, max_prompts: int) -> None:
    if len(prompts) > max_prompts:
        raise InvalidRequest(
            f"prompt holds {len(prompts)} prompts: at most {max_prompts} fit in one request (--max-prompts).",
            param="$.prompt",
        )
    limit = max(max_prompts, MAX_N)
    if len(prompts) * n > limit:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n = {n} make {len(prompts) * n} continuations: at most {limit} fit in one "
            "request.",
            param="$.n",
        )


ENDPOINTS = (
    Endpoint(
        path="/v1/completions",
        methods=("POST",),
        handler=completions,
        summary="The continuation of one or many prompts",
        body=CompletionRequest,
        answer=Completion,
        chunk=CompletionChunk,
        errors=(404,),
    ),
)
